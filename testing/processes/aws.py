"""AWS for tests: Auto Scaling groups in moto's server, and an HTTP proxy in front of it that injects faults."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import boto3

REGION = "eu-west-1"

ERROR = """<ErrorResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><Error><Type>Sender</Type>
<Code>{code}</Code><Message>{message}</Message></Error><RequestId>0</RequestId></ErrorResponse>"""


@dataclass
class AwsFault:
    """A fault in the next `times` calls of an action. `code` is the error of the answer; without a code the connection
    is closed unanswered. With `done`, the call is carried out first."""

    action: str
    code: str = ""
    message: str = "by the test"
    status: int = 400
    times: int = 1
    done: bool = False
    until: threading.Event | None = None
    """The proxy waits for this event before it does anything with the call."""


@dataclass
class AwsProxy:
    """Faults to inject, and `calls`: (action, fields) of every call, failed ones included."""

    url: str
    faults: list[AwsFault] = field(default_factory=list)
    calls: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)

    def count(self, action: str) -> int:
        """Number of calls of an action."""
        return sum(1 for name, _ in self.calls if name == action)

    def fault_for(self, action: str) -> AwsFault | None:
        """The fault that applies to this call of an action, which uses it up once."""
        for fault in self.faults:
            if fault.action == action and fault.times:
                fault.times -= 1
                return fault
        return None


@contextmanager
def proxy_to(target: str) -> Iterator[AwsProxy]:
    """Runs a proxy to `target` (a URL) on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            fields = parse_qs(body.decode())
            action = fields["Action"][0]
            proxy.calls.append((action, fields))
            fault = proxy.fault_for(action)
            if fault is not None and fault.until is not None:
                fault.until.wait(120)
            if fault is None or fault.done:
                status, answer = self._forward(body)
            if fault is not None and not fault.code:
                self.close_connection = True
                self.connection.close()
                return
            if fault is not None:
                status, answer = fault.status, ERROR.format(code=fault.code, message=fault.message).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _forward(self, body: bytes) -> tuple[int, bytes]:
            kept = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "content-length")}
            request = urllib.request.Request(target, data=body, headers=kept)
            try:
                with urllib.request.urlopen(request) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    proxy = AwsProxy(f"http://127.0.0.1:{server.server_address[1]}")
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class MotoCloud:
    """Auto Scaling groups in moto, created and read past the proxy."""

    def __init__(self, url: str) -> None:
        self.url = url

        def client(service: str) -> Any:
            return boto3.client(
                service, region_name=REGION, endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="b"
            )

        self.autoscaling, self.ec2 = client("autoscaling"), client("ec2")

    @cached_property
    def _image(self) -> str:
        return str(self.ec2.describe_images()["Images"][0]["ImageId"])

    def make(
        self, name: str, *, size: int = 0, maximum: int = 10, minimum: int = 0, tags: dict[str, str] | None = None
    ) -> None:
        """Creates an Auto Scaling group over two zones."""
        self.autoscaling.create_launch_configuration(
            LaunchConfigurationName=name, ImageId=self._image, InstanceType="t3.medium"
        )
        self.autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=name,
            LaunchConfigurationName=name,
            MinSize=minimum,
            MaxSize=maximum,
            DesiredCapacity=size,
            AvailabilityZones=[f"{REGION}a", f"{REGION}b"],
            Tags=[
                {
                    "ResourceId": name,
                    "ResourceType": "auto-scaling-group",
                    "Key": k,
                    "Value": v,
                    "PropagateAtLaunch": False,
                }
                for k, v in (tags or {}).items()
            ],
        )

    def group(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])[
            "AutoScalingGroups"
        ][0]
        return found

    def instances(self, name: str) -> list[str]:
        return sorted(item["InstanceId"] for item in self.group(name)["Instances"])

    def provider_ids(self, name: str) -> list[str]:
        return sorted(f"aws:///{i['AvailabilityZone']}/{i['InstanceId']}" for i in self.group(name)["Instances"])

    def vanish(self, name: str, instance: str) -> None:
        """Terminates an instance as the cloud does, and lowers the desired capacity by it."""
        self.autoscaling.detach_instances(
            AutoScalingGroupName=name, InstanceIds=[instance], ShouldDecrementDesiredCapacity=True
        )
        self.ec2.terminate_instances(InstanceIds=[instance])
