"""A leader on a database of the test's own and on a fake cluster with one customer and one node."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import structlog

from niyanta.lifecycle import Door
from niyanta.settings import Settings
from niyanta.store.postgres.pool import open_pool
from niyanta.store.rest.record import RestStore
from niyanta.store.rest.submissions import StoredResponse, SubmissionRequest
from niyanta.store.rows import CustomerRow
from niyanta.store.state import StateManager
from tests.fakes import objects
from tests.fakes.cluster import FakeCluster
from tests.fakes.leader import LeaderUnderTest
from tests.store.conftest import epoch, leadership, pool, state  # noqa: F401 - fixtures
from tests.store.make import intake

MakeLeader = Callable[..., LeaderUnderTest]
SubmitRest = Callable[..., Awaitable[list[str]]]


@pytest.fixture(scope="session", autouse=True)
def plain_tracebacks() -> None:
    """Injected errors are logged with plain tracebacks: structlog's own ones, with all local values, take a second."""
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, structlog.dev.set_exc_info, renderer])


@pytest.fixture
def settings(dsn: str) -> Settings:
    """Backoffs and intervals are short, so that tests wait for conditions and not for clocks."""
    return Settings(
        dsn=dsn, identity="leader", db_pool_min=1, cycle_interval=0.0, retry_backoff=0.05, node_loss_grace=0.0
    )


@pytest.fixture
def cluster() -> FakeCluster:
    """One customer for all namespaces, `team` by name for REST submissions; one node of 4 CPUs."""
    cluster = FakeCluster()
    cluster.set_customer("acme", "*", "team")
    cluster.add_node("n1", cpu="4")
    return cluster


@pytest.fixture
async def make_leader(
    state: StateManager,  # noqa: F811 - fixture
    epoch: int,  # noqa: F811 - fixture
    settings: Settings,
    cluster: FakeCluster,
) -> AsyncIterator[MakeLeader]:
    """Makes leaders of the current epoch; each is closed at the end."""
    made: list[LeaderUnderTest] = []

    def make(*, adopting: bool = False, **changed: object) -> LeaderUnderTest:
        leader = LeaderUnderTest(
            state,
            epoch=epoch,
            settings=settings.model_copy(update=changed),
            cluster=cluster,
            adopting=adopting,
        )
        made.append(leader)
        return leader

    yield make
    for leader in made:
        await leader.close()


@pytest.fixture
async def leader(make_leader: MakeLeader) -> LeaderUnderTest:
    """A leader after recovery, with its loop running."""
    leader = make_leader()
    await leader.start()
    return leader


@pytest.fixture
async def submit_rest(settings: Settings) -> AsyncIterator[SubmitRest]:
    """Submits workloads through the REST door's store; returns their ids. Arguments as of `store.make.intake`."""
    async with await open_pool(settings) as rest_pool:
        record = RestStore(rest_pool, settings)

        async def submit(*names: str, **fields: object) -> list[str]:
            spec = objects.restricted(objects.workload("")["spec"])
            customer = str(fields.get("customer", "acme"))
            what = fields.get("class_id"), fields.get("spec"), fields.get("replicas"), fields.get("namespace")
            fields.setdefault("queue_class", uuid.uuid5(uuid.NAMESPACE_OID, f"{customer} {what}").hex)
            await record.upsert_customers([CustomerRow(customer, "Standard", {}, ("*",))])
            items = [intake(**{"door": Door.REST, "name": name, "spec": spec, **fields}) for name in names]
            request = SubmissionRequest(customer, items, None, lambda _: StoredResponse(202, None, keep=False))
            (outcome,) = await record.submit([request])
            return [verdict.row.id for verdict in outcome.verdicts if verdict.row is not None]

        yield submit
