"""moto's server, once; for each test a proxy before it, which boto3 takes for AWS."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from niyanta.pools.providers.ec2 import Ec2Provider
from niyanta.resources.models.worker_pool import Ec2AutoScalingGroup
from testing.processes.aws import REGION, AwsProxy, MotoCloud, proxy_to


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def cloud(moto_url: str) -> MotoCloud:
    return MotoCloud(moto_url)


@pytest.fixture
def proxy(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsProxy]:
    """AWS_ENDPOINT_URL and credentials, as a pod would have them in its environment."""
    with proxy_to(moto_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        yield proxy


@pytest.fixture
def group() -> str:
    """Name of a group of this test's own, not made yet."""
    return f"group-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def provider(group: str, proxy: AwsProxy) -> Iterator[Ec2Provider]:
    made = Ec2Provider(Ec2AutoScalingGroup(name=group, region=REGION), may_act=lambda: True)
    yield made
    made.close()
