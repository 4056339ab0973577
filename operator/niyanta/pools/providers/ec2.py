"""EC2 Auto Scaling groups: raises the desired capacity for more workers, and terminates the chosen instance for fewer.

boto3 blocks, so each pool has a thread of its own: a slow call delays only its pool, and calls of one pool never
overlap. Credentials, region and endpoint come from boto3's usual chain (IRSA, AWS_ENDPOINT_URL, ...).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from niyanta.cluster.api.errors import WritesClosedError
from niyanta.observability import log
from niyanta.pools.providers.base import (
    AtBoundError,
    Group,
    Instance,
    InstanceGoneError,
    InstanceState,
    ProviderError,
    ProviderReason,
    ProviderRefusedError,
    ThrottledError,
)
from niyanta.resources.models.worker_pool import Ec2AutoScalingGroup

logger = log.get(__name__)

T = TypeVar("T")

PROTECT_AT_ONCE = 50
"""Most instances in one SetInstanceProtection."""

CALL_TIMEOUT_SECONDS = 60.0
"""Longest time of one call with all its retries."""

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 10

AUTOSCALER_TAG = re.compile(r"k8s\.io/cluster-autoscaler/[^/]+")
"""Tags by which cluster-autoscaler finds its groups: `enabled` or a cluster's name. The longer node-template/... tags
only describe nodes."""

ASIDE = ("Standby", "EnteringStandby", "Warmed")
"""Lifecycle states of instances on standby or in a warm pool, which aren't part of the desired capacity."""

THROTTLES = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "TooManyRequestsException",
        "ScalingActivityInProgress",
        "ResourceContention",
    }
)

REFUSALS = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
        "InvalidClientTokenId",
        "ExpiredToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


class Ec2Provider:
    """Implements niyanta.pools.providers.base.Provider for one group. `may_act` is called before each order is sent."""

    def __init__(self, spec: Ec2AutoScalingGroup, *, may_act: Callable[[], bool]) -> None:
        self.spec = spec
        self._may_act = may_act
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"asg-{spec.name}")

    # --- the provider ------------------------------------------------------------------------------------------------

    async def describe(self) -> Group:
        found = await self._in_thread(self._describe)
        tags = sorted(tag["Key"] for tag in found.get("Tags", ()) if AUTOSCALER_TAG.fullmatch(tag["Key"]))
        if tags:
            raise ProviderRefusedError(
                f"Auto Scaling group {self.spec.name} has the tag {tags[0]}, so cluster-autoscaler may scale it too; "
                "take the group away from it and delete the tag",
                reason=ProviderReason.GROUP_HAS_OTHER_SCALER,
            )
        if _weighted(found):
            raise ProviderRefusedError(
                f"Auto Scaling group {self.spec.name} counts its capacity in weights or units, not in instances",
                reason=ProviderReason.WEIGHTED_GROUP,
            )
        counted = [item for item in found["Instances"] if not str(item["LifecycleState"]).startswith(ASIDE)]
        return Group(
            instances=tuple(sorted((_instance(item) for item in counted), key=lambda i: i.id)),
            desired=int(found["DesiredCapacity"]),
            minimum=int(found["MinSize"]),
            maximum=int(found["MaxSize"]),
            protects=True,
        )

    async def grow(self, group: Group, to: int) -> None:
        if group.maximum is not None and to > group.maximum:
            raise AtBoundError(f"{to} instances wanted, the group's maximum is {group.maximum}")
        if to <= group.desired:  # such an order would let the group choose instances to terminate
            return
        await self._in_thread(
            lambda: self._orders.set_desired_capacity(
                AutoScalingGroupName=self.spec.name, DesiredCapacity=to, HonorCooldown=False
            )
        )

    async def remove(self, instance: Instance) -> None:
        await self._in_thread(
            lambda: self._orders.terminate_instance_in_auto_scaling_group(
                InstanceId=instance.id, ShouldDecrementDesiredCapacity=True
            )
        )

    async def protect(self, instances: Sequence[str], *, on: bool) -> None:
        for start in range(0, len(instances), PROTECT_AT_ONCE):
            part = list(instances[start : start + PROTECT_AT_ONCE])
            await self._in_thread(partial(self._protect, part, on=on))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- in the thread -----------------------------------------------------------------------------------------------

    @cached_property
    def _session(self) -> Any:
        return boto3.session.Session(region_name=self.spec.region)

    @cached_property
    def _reads(self) -> Any:
        return self._client(attempts=4)

    @cached_property
    def _orders(self) -> Any:
        """The client for orders, without repetition by botocore: an order without an answer may have been carried out,
        and a repeated termination could make the group smaller by two. The next pass reads the group again."""
        client = self._client(attempts=1)
        client.meta.events.register("before-send.auto-scaling.*", self._check)
        return client

    def _client(self, *, attempts: int) -> Any:
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            retries={"mode": "standard", "total_max_attempts": attempts},
            user_agent_extra="niyanta",
        )
        return self._session.client("autoscaling", config=config)

    def _check(self, **_: object) -> None:
        if not self._may_act():
            raise WritesClosedError

    def _describe(self) -> Mapping[str, Any]:
        pages = self._reads.get_paginator("describe_auto_scaling_groups")
        groups: list[dict[str, Any]] = []
        for page in pages.paginate(AutoScalingGroupNames=[self.spec.name]):
            groups += page["AutoScalingGroups"]
        if not groups:
            raise ProviderRefusedError(
                f"there is no Auto Scaling group {self.spec.name} in {self.spec.region}",
                reason=ProviderReason.GROUP_NOT_FOUND,
            )
        # A group with very many instances may be returned in several parts.
        first: dict[str, Any] = groups[0]
        return {**first, "Instances": [item for group in groups for item in group["Instances"]]}

    def _protect(self, instances: list[str], *, on: bool) -> None:
        self._orders.set_instance_protection(
            AutoScalingGroupName=self.spec.name, InstanceIds=instances, ProtectedFromScaleIn=on
        )

    async def _in_thread(self, call: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                return await loop.run_in_executor(self._threads, call)
        except TimeoutError as error:
            raise ProviderError(f"AWS did not answer within {CALL_TIMEOUT_SECONDS:g} s") from error
        except ClientError as error:
            raise translated(error) from error
        except BotoCoreError as error:
            raise ProviderError(str(error)) from error


def _weighted(group: Mapping[str, Any]) -> bool:
    """True if one instance may count for more or less than one."""
    policy = (group.get("MixedInstancesPolicy") or {}).get("LaunchTemplate") or {}
    weights = [item.get("WeightedCapacity") for item in (*group["Instances"], *(policy.get("Overrides") or ()))]
    return group.get("DesiredCapacityType") not in (None, "", "units") or any(w not in (None, "", "1") for w in weights)


def _instance(item: Mapping[str, Any]) -> Instance:
    """An instance from an item of DescribeAutoScalingGroups."""
    state = str(item["LifecycleState"])
    if state == "InService":
        found = InstanceState.RUNNING
    elif state.startswith(("Terminat", "Detach")):
        found = InstanceState.LEAVING
    else:
        found = InstanceState.STARTING
    return Instance(
        id=item["InstanceId"],
        state=found,
        provider_id=f"aws:///{item['AvailabilityZone']}/{item['InstanceId']}",
        protected=bool(item.get("ProtectedFromScaleIn")),
    )


def translated(error: ClientError) -> ProviderError:
    """The ProviderError for an error of AWS."""
    details = error.response.get("Error", {})
    code, message = str(details.get("Code", "")), str(details.get("Message", "")) or str(error)
    words = message.lower()
    if code in THROTTLES or "rate exceeded" in words:
        return ThrottledError(f"{code}: {message}")
    if code in REFUSALS:
        return ProviderRefusedError(f"{code}: {message}")
    if code == "ValidationError" and "instance" in words and ("not found" in words or "not part of" in words):
        return InstanceGoneError(message)
    if code == "ValidationError" and ("minsize" in words or "min size" in words or "maxsize" in words):
        return AtBoundError(message)
    return ProviderError(f"{code}: {message}")
