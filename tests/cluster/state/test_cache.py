"""The deltas of the cache add up to the state of the cluster, in any order of events."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from niyanta.cluster.api.connection import Connection, Credentials
from niyanta.cluster.api.objects import Namespace, Node, Object, Pod
from niyanta.cluster.state import cache as cache_module
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.state.worker_info import PoolInfo
from niyanta.cluster.watch.object_store import ObjectChange
from niyanta.cluster.watch.reflector import Reflector
from niyanta.containment import CONTAINED_ERRORS, Boundary
from niyanta.engine.snapshot.deltas import (
    ChargedNodeRemoved,
    ChargedNodeUpserted,
    PodCharged,
    PodReleased,
    StateReplaced,
    WorkerRemoved,
    WorkerUpserted,
)
from niyanta.engine.types import (
    Charge,
    ChargedNode,
    Expression,
    HostPort,
    Op,
    PeerTerm,
    Requirements,
    Selector,
    Subject,
    WorkerInfo,
)
from tests.fakes import scripted_api_server

pytestmark = pytest.mark.unit
NOWHERE = Connection("http://127.0.0.1:1", None, Credentials(lambda: ""))
POOL = PoolInfo("p", created="2026-01-01T00:00:00Z", match_labels=(("pool", "p"),))
SUBJECT = Subject("ns", "acme", "video", (("app", "x"),))
NEEDS = Requirements(
    requests=(("cpu", 900), ("pods", 1)),
    gpu_count=1,
    host_ports=(HostPort(80),),
    anti=(PeerTerm(Selector(types=("video",))),),
)


class FedCache:
    """A cache with reflectors fed by the test, and a snapshot that follows its deltas."""

    def __init__(self) -> None:
        self.workloads: set[str] = set()
        self.noted: set[str] = set()
        self.room = 0
        self.cache = ClusterCache(
            NOWHERE, on_workloads=self.workloads.update, on_nodes=self.noted.update, on_room=self.more_room
        )
        self.version = 0
        self.workers: dict[str, WorkerInfo] = {}
        self.charges: dict[str, Charge] = {}
        self.nodes: dict[str, ChargedNode] = {}
        self.deltas = self.cache.delta_cursor()
        self.apply()

    def more_room(self) -> None:
        self.room += 1

    def node(
        self, name: str, *, pool: str = "p", ready: bool = True, gone: bool = False, cpu: str = "4", **labels: str
    ) -> None:
        raw = {
            "metadata": {"name": name, "uid": f"uid-{name}", "labels": {"pool": pool, **labels}},
            "status": {
                "allocatable": {"cpu": cpu},
                "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
            },
        }
        self._event(self.cache.nodes, Node, raw, gone)

    def pod(self, name: str, *, gone: bool = False, workload: str = "", **extra: Any) -> Pod:
        labels = {}
        if workload:
            uid, attempt, index = workload.split("/")
            labels = {
                "niyanta.io/workload-uid": uid,
                "niyanta.io/attempt": attempt,
                "niyanta.io/index": index,
                "niyanta.io/customer": "acme",
            }
            extra.setdefault("owners", [scripted_api_server.owner(uid)])
        raw = scripted_api_server.pod(name, 0, labels=labels, **extra)
        if "extended" in extra:
            raw["spec"]["containers"][0]["resources"]["requests"][extra["extended"]] = "1"
        return self._event(self.cache.pods, Pod, raw, gone)

    def _event(self, reflector: Reflector[Any], model: type[Any], raw: dict[str, Any], gone: bool) -> Any:
        self.version += 1
        raw["metadata"]["resourceVersion"] = str(self.version)
        obj: Object = msgspec.convert(raw, model)
        changes: list[ObjectChange[Any]] = []
        reflector.objects.event("DELETED" if gone else "MODIFIED", obj, changes)
        reflector._report(changes)
        return obj

    def apply(self) -> list[str]:
        """Apply the deltas and return them."""
        said = []
        for delta in self.deltas.take():
            match delta:
                case WorkerUpserted(info):
                    self.nodes.pop(info.name, None)
                    self.workers[info.name] = info
                    said.append(f"upsert_worker {info.name}")
                case WorkerRemoved(name):
                    del self.workers[name]
                    said.append(f"remove_worker {name}")
                case PodCharged(charge):
                    self.charges[charge.key] = charge
                    said.append(f"charge {charge.key}")
                case PodReleased(key):
                    del self.charges[key]
                    said.append(f"release {key}")
                case ChargedNodeUpserted(node):
                    self.workers.pop(node.name, None)
                    self.nodes[node.name] = node
                    said.append(f"upsert_node {node.name}")
                case ChargedNodeRemoved(name):
                    self.nodes.pop(name, None)
                    said.append(f"remove_node {name}")
                case StateReplaced(workers, charges, nodes):
                    self.nodes = {node.name: node for node in nodes}
                    self.workers = {info.name: info for info in workers}
                    self.charges = {charge.key: charge for charge in charges}
                    said += ["all", *(f"upsert_worker {name}" for name in self.workers)]
                    said += [f"charge {key}" for key in self.charges]
        return said


@pytest.fixture
async def case() -> FedCache:
    made = FedCache()
    await made.cache.set_pools([POOL])
    return made


# --- workers ---------------------------------------------------------------------------------------------------------


async def test_nodes_of_a_pool_become_workers_and_leave_with_it(case: FedCache) -> None:
    case.node("n1")
    case.node("n2", pool="other")
    assert case.apply() == ["upsert_worker n1"]
    await case.cache.set_pools([PoolInfo("q", match_labels=(("pool", "other"),))])
    assert case.apply() == ["remove_worker n1", "upsert_worker n2"]
    case.node("n2", gone=True)
    assert case.apply() == ["remove_worker n2"]


async def test_a_heartbeat_changes_nothing(case: FedCache) -> None:
    case.node("n1")
    case.apply()
    case.noted.clear()
    case.node("n1")
    assert case.apply() == []
    assert case.noted == set()


async def test_whatever_may_help_those_who_wait_is_told(case: FedCache) -> None:
    case.node("n1")
    assert case.room == 1
    case.node("n1")
    assert case.room == 1, "a heartbeat is no news"
    case.node("n1", disk="ssd")
    assert case.room == 2, "a label may be the one that is waited for"
    case.node("n1", disk="ssd", cpu="8")
    assert case.room == 3, "so may a device that is reported late"
    case.pod("bare", node="n1")
    assert case.room == 3, "a pod only takes room"
    case.pod("bare", node="n1", gone=True)
    assert case.room == 4, "until it gives it back, whoever made it"


async def test_lost_and_deleted_nodes_are_noted(case: FedCache) -> None:
    case.node("n1")
    assert case.noted == {"n1"}
    case.noted.clear()
    case.node("n1", ready=False)
    assert case.noted == {"n1"}
    assert not case.cache.workers["n1"].ready
    case.noted.clear()
    case.node("n1", gone=True)
    assert case.noted == {"n1"}
    assert case.cache.node("n1") is None


async def test_overlapping_pools_are_told(case: FedCache) -> None:
    younger = PoolInfo("young", created="2026-05-01T00:00:00Z")
    case.node("n1")
    case.node("n2", pool="other")
    await case.cache.set_pools([younger, POOL])
    assert case.cache.workers["n1"].pool == "p"
    assert case.cache.workers["n2"].pool == "young"
    assert case.cache.overlaps() == {"young": ["n1"]}
    await case.cache.set_pools([younger])
    assert case.cache.overlaps() == {}


# --- charges ---------------------------------------------------------------------------------------------------------


async def test_a_foreign_pod_counts_until_its_containers_are_done(case: FedCache) -> None:
    case.pod("f")
    assert case.apply() == ["charge uid-f"]
    assert case.charges["uid-f"].subject is None
    case.pod("f", phase="Failed")
    assert case.apply() == ["release uid-f"]
    assert case.workloads == set()


async def test_a_pod_not_bound_counts_from_its_binding(case: FedCache) -> None:
    case.pod("f", node="")
    assert case.apply() == []
    case.pod("f", node="n1")
    assert case.apply() == ["charge uid-f"]


async def test_a_status_change_costs_no_delta(case: FedCache) -> None:
    case.pod("f", phase="Pending")
    case.apply()
    case.pod("f", phase="Running")
    assert case.apply() == []


async def test_row_then_pod_then_row_gone_then_pod_gone(case: FedCache) -> None:
    case.cache.claim("w", 1, ["n1"], NEEDS, SUBJECT)
    assert case.apply() == ["charge w/1/0"]
    case.pod("p", workload="w/1/0")
    assert case.apply() == []  # the row knows more than the pod's labels
    assert case.charges["w/1/0"].anti == NEEDS.anti
    case.cache.unclaim("w", 1)
    assert case.apply() == []
    case.pod("p", workload="w/1/0", gone=True)
    assert case.apply() == ["release w/1/0"]


async def test_pod_gone_before_the_row_is(case: FedCache) -> None:
    case.cache.claim("w", 1, ["n1"], NEEDS, SUBJECT)
    case.pod("p", workload="w/1/0")
    case.pod("p", workload="w/1/0", phase="Succeeded")
    assert case.apply() == ["charge w/1/0"]
    case.cache.unclaim("w", 1)
    assert case.apply() == ["release w/1/0"]


async def test_a_pod_of_an_unknown_row_counts_and_the_row_then_tells_more(case: FedCache) -> None:
    case.pod("p", workload="w/1/0")
    assert case.apply() == ["charge w/1/0"]
    assert case.charges["w/1/0"].subject == Subject("ns", "acme")
    case.cache.claim("w", 1, ["n1"], NEEDS, SUBJECT)
    assert case.apply() == ["charge w/1/0"]
    assert case.charges["w/1/0"].subject == SUBJECT


async def test_a_pod_on_another_worker_than_its_row_counts_beside_it(case: FedCache) -> None:
    case.cache.claim("w", 1, ["n1"], NEEDS, SUBJECT)
    case.pod("p", workload="w/1/0", node="n2")
    case.apply()
    assert {key: (charge.worker, charge.subject) for key, charge in case.charges.items()} == {
        "w/1/0": ("n1", SUBJECT),
        "uid-p": ("n2", None),
    }
    case.pod("p", workload="w/1/0", node="n2", gone=True)
    assert case.apply() == ["release uid-p"]


async def test_a_pod_that_was_there_before_its_row_is_charged_beside_it_too(case: FedCache) -> None:
    case.pod("p", workload="w/1/0", node="n2")
    case.cache.claim("w", 1, ["n1"], NEEDS, SUBJECT)
    case.pod("real", workload="w/1/0", node="n1")
    case.apply()
    assert {key: charge.worker for key, charge in case.charges.items()} == {"w/1/0": "n1", "uid-p": "n2"}
    case.cache.unclaim("w", 1)
    case.pod("real", workload="w/1/0", node="n1", gone=True)
    case.apply()
    assert {key: charge.worker for key, charge in case.charges.items()} == {"w/1/0": "n2"}


@pytest.mark.parametrize(
    "owners",
    [
        [],
        [scripted_api_server.owner("w", controller=False)],
        [scripted_api_server.owner("w", kind="Job", apiVersion="batch/v1")],
        [scripted_api_server.owner("w", apiVersion="example.com/v1")],
    ],
)
async def test_a_pod_with_our_labels_and_another_controller_is_a_stranger(
    case: FedCache, owners: list[dict[str, Any]]
) -> None:
    case.pod("p", workload="w/1/0", owners=owners)
    assert case.apply() == ["charge uid-p"]
    assert case.charges["uid-p"].subject is None
    assert case.workloads == set()
    assert case.cache.pods_of("w") == []
    assert case.cache.workloads_on("n1") == set()


async def test_two_pods_that_name_one_index_are_both_charged(case: FedCache) -> None:
    case.pod("p", workload="w/1/0")
    case.pod("forged", workload="w/1/0")
    assert case.apply() == ["charge w/1/0", "charge uid-forged"]
    assert case.charges["uid-forged"].subject is None
    case.pod("p", workload="w/1/0", gone=True)
    case.apply()
    assert set(case.charges) == {"w/1/0"}


# --- nodes outside pools ---------------------------------------------------------------------------------------------


async def test_a_node_that_left_its_pool_stays_known_while_our_pods_run(case: FedCache) -> None:
    case.node("n1", zone="a")
    case.pod("p", workload="w/1/0")
    case.pod("f")
    case.apply()
    case.node("n1", pool="none", zone="a")
    assert case.apply() == ["remove_worker n1", "upsert_node n1"]
    assert dict(case.nodes["n1"].labels) == {"pool": "none", "zone": "a"}
    case.pod("p", workload="w/1/0", phase="Succeeded")
    assert case.apply() == ["release w/1/0", "remove_node n1"]
    case.pod("p", workload="w/1/0")
    case.node("n1")
    assert case.apply() == ["charge w/1/0", "upsert_node n1", "upsert_worker n1"]
    assert case.nodes == {}
    case.node("n1", pool="none", gone=True)
    assert case.apply() == ["remove_worker n1"]


async def test_nodes_without_a_pool_and_without_our_pods_are_not_told(case: FedCache) -> None:
    case.node("n1", pool="none")
    case.pod("f")
    assert case.apply() == ["charge uid-f"]


async def test_nodes_of_the_control_plane_are_workers_only_by_name(case: FedCache) -> None:
    label = {"node-role.kubernetes.io/control-plane": ""}
    case.node("n1", **label)
    assert case.apply() == []
    exists = Expression("node-role.kubernetes.io/control-plane", Op.EXISTS)
    await case.cache.set_pools([PoolInfo("cp", match_expressions=(exists,))])
    assert case.apply() == ["upsert_worker n1"]
    await case.cache.set_pools([PoolInfo("every")])
    assert case.apply() == ["remove_worker n1"]


async def test_workers_carry_the_customers_of_their_pool(case: FedCache) -> None:
    await case.cache.set_pools([PoolInfo("p", customers=frozenset({"acme"}))])
    case.node("n1")
    assert case.cache.workers["n1"].customers == {"acme"}


# --- faults ----------------------------------------------------------------------------------------------------------


async def test_a_node_that_raises_is_no_worker_and_others_go_on(
    case: FedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cache_module.worker

    def fails(node: Node, pool: PoolInfo) -> WorkerInfo:
        if node.name == "bad":
            raise OverflowError("an odd node")
        return real(node, pool)

    case.node("bad")
    monkeypatch.setattr(cache_module, "worker", fails)
    counted = CONTAINED_ERRORS.labels(Boundary.WORKER.value)
    before = counted._value.get()
    case.node("bad", cpu="8")
    case.node("n1")
    assert case.apply() == ["upsert_worker bad", "remove_worker bad", "upsert_worker n1"]
    assert counted._value.get() == before + 1


async def test_a_pod_that_raises_takes_a_place_and_others_go_on(
    case: FedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cache_module.pod_charge

    def fails(pod: Pod) -> Charge | None:
        if pod.name == "bad":
            raise OverflowError("an odd pod")
        return real(pod)

    monkeypatch.setattr(cache_module, "pod_charge", fails)
    case.pod("bad", workload="w/1/0")
    case.pod("p", workload="w/1/1")
    assert case.apply() == ["charge w/1/0", "charge w/1/1"]
    assert case.charges["w/1/0"].requests == (("pods", 1),)
    case.pod("bad", workload="w/1/0", gone=True)
    assert case.apply() == ["release w/1/0"]


async def test_a_listener_that_raises_stops_nothing(case: FedCache) -> None:
    def fails(_: object = None) -> None:
        raise RuntimeError("a listener that fails")

    case.cache._on_workloads = case.cache._on_nodes = fails
    case.cache._on_room = fails
    case.node("n1")
    case.pod("p", workload="w/1/0")
    assert case.apply() == ["upsert_worker n1", "charge w/1/0"]


@pytest.mark.parametrize("amount", ["9" * 30, "1e40", "99999999999999Ei", "-5", "junk", "", "0x10", "١٢"])
async def test_odd_amounts_stay_within_the_engines_integers(case: FedCache, amount: str) -> None:
    case.node("n1", cpu=amount)
    case.pod("p", workload="w/1/0", cpu=amount)
    case.apply()
    amounts = [value for _, value in (*case.workers["n1"].allocatable, *case.charges["w/1/0"].requests)]
    assert all(0 <= value <= 2**50 for value in amounts)


async def test_resources_that_no_worker_offers_do_not_reach_the_engine(case: FedCache) -> None:
    for number in range(20):
        case.pod(f"f{number}", extended=f"example.com/r{number}")
    case.apply()
    assert {name for charge in case.charges.values() for name, _ in charge.requests} == {"cpu", "pods"}
    case.pod("f8", extended="example.com/r8", gone=True)
    case.apply()
    raw = {"metadata": {"name": "n1", "labels": {"pool": "p"}}, "status": {"allocatable": {}}}
    raw["status"]["allocatable"] = {"cpu": "4", "example.com/r7": "2", "example.com/r8": "2"}
    case._event(case.cache.nodes, Node, raw, gone=False)
    assert case.apply() == ["upsert_worker n1", "charge uid-f7"]
    assert dict(case.charges["uid-f7"].requests)["example.com/r7"] == 1
    case.pod("late", extended="example.com/r8")
    case.apply()
    assert dict(case.charges["uid-late"].requests)["example.com/r8"] == 1


async def test_annotations_of_others_are_not_kept(case: FedCache) -> None:
    raw = {"metadata": {"name": "n1", "annotations": {"niyanta.io/scale-down": "p", "other": "x" * 100_000}}}
    assert msgspec.convert(raw, Node).slim.metadata.annotations == {"niyanta.io/scale-down": "p"}


async def test_namespaces_are_enabled_by_their_label() -> None:
    changed: set[str] = set()
    cache = ClusterCache(NOWHERE, require_namespace_label=True, on_namespaces=changed.update)
    assert cache.namespaces in cache.reflectors
    assert cache.namespace_enabled("team") is None
    for version, labels in enumerate(({}, {"niyanta.io/enabled": "yes"}, {"niyanta.io/enabled": "true"}), 1):
        changed.clear()
        raw = {"metadata": {"name": "team", "uid": "u", "resourceVersion": str(version), "labels": labels}}
        changes: list[ObjectChange[Any]] = []
        cache.namespaces.objects.event("MODIFIED", msgspec.convert(raw, Namespace), changes)
        cache.namespaces._report(changes)
        assert cache.namespace_enabled("team") is (version == 3)
        assert bool(changed) is (version != 2)
    free = ClusterCache(NOWHERE)
    assert free.namespaces not in free.reflectors
    assert free.namespace_enabled("anything") is True


async def test_a_namespace_is_gone_when_it_is_deleted_or_being_deleted() -> None:
    cache = ClusterCache(NOWHERE, require_namespace_label=True)
    assert not cache.namespace_gone("team"), "nothing is known before the first list"
    for name, deletion in (("team", None), ("leaving", "2026-01-01T00:00:00Z")):
        raw = {"metadata": {"name": name, "uid": name, "resourceVersion": "1", "deletionTimestamp": deletion}}
        cache.namespaces.objects.event("ADDED", msgspec.convert(raw, Namespace), [])
    assert [cache.namespace_gone(name) for name in ("team", "leaving", "absent")] == [False, True, True]
    assert not ClusterCache(NOWHERE).namespace_gone("absent"), "namespaces aren't watched"


async def test_claiming_again_replaces(case: FedCache) -> None:
    case.cache.claim("w", 1, ["n1", "n2", "n3"], NEEDS, SUBJECT)
    case.apply()
    case.cache.claim("w", 1, ["n1", "n4"], NEEDS, SUBJECT)
    assert case.apply() == ["release w/1/2", "charge w/1/1"]
    case.cache.unclaim("w", 1)
    assert sorted(case.apply()) == ["release w/1/0", "release w/1/1"]


async def test_pods_are_found_by_workload_and_node(case: FedCache) -> None:
    case.pod("a", workload="w/1/0")
    case.pod("b", workload="w/1/1", phase="Failed")
    case.pod("c", workload="w/2/0", node="n2")
    case.pod("f", node="n2")
    cache = case.cache
    assert {pod.name for pod in cache.pods_of("w")} == {"a", "b", "c"}
    assert {pod.name for pod in cache.pods_on("n2")} == {"c", "f"}
    assert cache.workloads_on("n2") == {"w"}
    assert case.workloads == {"w"}
    for name, index in (("a", "1/0"), ("b", "1/1"), ("c", "2/0")):
        case.pod(name, workload=f"w/{index}", gone=True)
    assert cache.pods_of("w") == []
    assert list(cache.workloads_with_pods()) == []


async def test_an_assumed_pod_counts_at_once(case: FedCache) -> None:
    raw = scripted_api_server.pod("p", 50, labels={})
    assert case.cache.assume(msgspec.convert(raw, Pod))
    assert case.apply() == ["charge uid-p"]


async def test_a_standby_records_nothing_and_a_new_leader_gets_everything() -> None:
    case = FedCache()
    case.cache.close_delta_cursors()
    await case.cache.set_pools([POOL])
    case.node("n1")
    case.pod("f")
    assert not case.cache._deltas.has_readers
    assert case.apply() == ["all", "upsert_worker n1", "charge uid-f"]
    case.pod("f", gone=True)
    assert case.apply() == ["release uid-f"]


@pytest.mark.parametrize("seed", range(20))
async def test_deltas_always_add_up_to_the_truth(seed: int) -> None:
    """Random claims, pods, nodes and pools; the applied deltas must equal the state by definition."""
    rng = random.Random(seed)
    case = FedCache()
    nodes = [f"n{i}" for i in range(4)]
    pods: dict[str, tuple[str, str]] = {}
    claims: dict[tuple[str, int], list[str]] = {}
    for _ in range(300):
        match rng.randrange(6):
            case 0:
                case.node(rng.choice(nodes), pool=rng.choice("pq"), ready=rng.random() < 0.7, gone=rng.random() < 0.3)
            case 1:
                await case.cache.set_pools(rng.sample([POOL, PoolInfo("q", match_labels=(("pool", "q"),))], k=1))
            case 2:
                claim = (rng.choice("uvw"), rng.randint(1, 2))
                claims[claim] = rng.choices(nodes, k=2)
                case.cache.claim(*claim, claims[claim], NEEDS, SUBJECT)
            case 3 if claims:
                claim = rng.choice(sorted(claims))
                case.cache.unclaim(*claim)
                del claims[claim]
            case _:
                key = f"{rng.choice('uvw')}/{rng.randint(1, 2)}/{rng.randint(0, 1)}"
                name, phase = key.replace("/", "-"), rng.choice(["Running", "Succeeded"])
                gone = rng.random() < 0.4
                case.pod(name, workload=key, phase=phase, gone=gone, node="n0")
                if gone:
                    pods.pop(name, None)
                else:
                    pods[name] = (key, phase)
        if rng.random() < 0.3:
            case.apply()
    case.apply()
    wanted = {f"{w}/{a}/{i}" for w, a in claims for i in range(2)}
    for name, (key, phase) in pods.items():
        workload, attempt, index = key.split("/")
        claimed = claims.get((workload, int(attempt)))
        if phase == "Running":
            wanted.add(key if claimed is None or claimed[int(index)] == "n0" else f"uid-{name}")
    assert set(case.charges) == wanted
    assert case.nodes == case.cache._charged_nodes
    assert case.workers == dict(case.cache.workers)
    fresh = FedCache()
    fresh.deltas = case.cache.delta_cursor()
    fresh.apply()
    assert (fresh.workers, fresh.charges, fresh.nodes) == (case.workers, case.charges, case.nodes)
