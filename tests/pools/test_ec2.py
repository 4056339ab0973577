"""The EC2 provider against moto's server over HTTP, and against answers as AWS gives them on bad days."""

from __future__ import annotations

import pytest

from niyanta.cluster.api.errors import WritesClosedError
from niyanta.pools.providers.base import (
    AtBoundError,
    InstanceGoneError,
    ProviderError,
    ProviderRefusedError,
    ThrottledError,
)
from niyanta.pools.providers.ec2 import Ec2Provider
from niyanta.resources.models.worker_pool import Ec2AutoScalingGroup
from testing.processes.aws import REGION, AwsFault, AwsProxy, MotoCloud

pytestmark = pytest.mark.aws


async def test_it_tells_what_exists(provider: Ec2Provider, cloud: MotoCloud, group: str) -> None:
    cloud.make(group, size=3, maximum=7, minimum=1)
    found = await provider.describe()
    assert (found.desired, found.minimum, found.maximum, found.protects) == (3, 1, 7, True)
    assert sorted(instance.provider_id for instance in found.instances) == cloud.provider_ids(group)
    assert found.instances[0].provider_id.startswith(f"aws:///{REGION}")


async def test_more_by_the_desired_capacity(
    provider: Ec2Provider, cloud: MotoCloud, proxy: AwsProxy, group: str
) -> None:
    cloud.make(group, size=1)
    await provider.grow(await provider.describe(), 4)
    assert len(cloud.instances(group)) == 4
    (fields,) = [fields for action, fields in proxy.calls if action == "SetDesiredCapacity"]
    assert fields["HonorCooldown"] == ["false"]


async def test_the_desired_capacity_is_never_made_smaller(
    provider: Ec2Provider, cloud: MotoCloud, proxy: AwsProxy, group: str
) -> None:
    cloud.make(group, size=3)
    await provider.grow(await provider.describe(), 2)
    assert proxy.count("SetDesiredCapacity") == 0
    assert len(cloud.instances(group)) == 3


async def test_not_beyond_the_groups_maximum(provider: Ec2Provider, cloud: MotoCloud, group: str) -> None:
    cloud.make(group, size=1, maximum=2)
    with pytest.raises(AtBoundError, match="maximum is 2"):
        await provider.grow(await provider.describe(), 3)


async def test_fewer_by_the_chosen_instance(provider: Ec2Provider, cloud: MotoCloud, group: str) -> None:
    cloud.make(group, size=3)
    found = await provider.describe()
    chosen = found.instances[1]
    await provider.protect([instance.id for instance in found.instances], on=True)
    assert all(instance.protected for instance in (await provider.describe()).instances)
    await provider.protect([chosen.id], on=False)
    await provider.remove(chosen)
    assert cloud.instances(group) == sorted({i.id for i in found.instances} - {chosen.id})
    assert cloud.group(group)["DesiredCapacity"] == 2


async def test_more_than_fifty_are_protected_in_parts(
    provider: Ec2Provider, cloud: MotoCloud, proxy: AwsProxy, group: str
) -> None:
    cloud.make(group, size=120, maximum=200)
    ids = [instance.id for instance in (await provider.describe()).instances]
    await provider.protect(ids, on=True)
    sizes = [
        sum(1 for name in fields if name.startswith("InstanceIds.member"))
        for action, fields in proxy.calls
        if action == "SetInstanceProtection"
    ]
    assert sizes == [50, 50, 20]
    assert all(item["ProtectedFromScaleIn"] for item in cloud.group(group)["Instances"])


@pytest.mark.parametrize("tag", ["k8s.io/cluster-autoscaler/enabled", "k8s.io/cluster-autoscaler/my-cluster"])
async def test_a_group_of_cluster_autoscalers_is_refused(
    provider: Ec2Provider, cloud: MotoCloud, group: str, tag: str
) -> None:
    cloud.make(group, size=1, tags={tag: "owned", "Name": "x"})
    with pytest.raises(ProviderRefusedError, match=tag) as refused:
        await provider.describe()
    assert refused.value.reason == "GroupHasOtherScaler"
    assert not refused.value.temporary


async def test_tags_that_only_describe_nodes_are_no_reason(provider: Ec2Provider, cloud: MotoCloud, group: str) -> None:
    cloud.make(group, size=1, tags={"k8s.io/cluster-autoscaler/node-template/label/x": "y"})
    assert len((await provider.describe()).instances) == 1


async def test_a_group_that_does_not_exist(provider: Ec2Provider) -> None:
    with pytest.raises(ProviderRefusedError, match="no Auto Scaling group") as refused:
        await provider.describe()
    assert refused.value.reason == "GroupNotFound"


async def test_reads_are_repeated_when_throttled(
    provider: Ec2Provider, cloud: MotoCloud, proxy: AwsProxy, group: str
) -> None:
    cloud.make(group, size=1)
    proxy.faults.append(AwsFault("DescribeAutoScalingGroups", "Throttling", "Rate exceeded", times=2))
    assert (await provider.describe()).desired == 1
    assert proxy.count("DescribeAutoScalingGroups") == 3


@pytest.mark.parametrize("code", ["Throttling", "RequestLimitExceeded", "ScalingActivityInProgress"])
async def test_orders_are_not_repeated_behind_our_back(
    provider: Ec2Provider, cloud: MotoCloud, proxy: AwsProxy, group: str, code: str
) -> None:
    cloud.make(group, size=1)
    found = await provider.describe()
    proxy.faults.append(AwsFault("SetDesiredCapacity", code))
    with pytest.raises(ThrottledError, match=code):
        await provider.grow(found, 2)
    assert proxy.count("SetDesiredCapacity") == 1
    await provider.grow(found, 2)
    assert len(cloud.instances(group)) == 2


async def test_a_removal_whose_answer_is_lost_is_done_once(
    provider: Ec2Provider, cloud: MotoCloud, proxy: AwsProxy, group: str
) -> None:
    cloud.make(group, size=3)
    chosen = (await provider.describe()).instances[0]
    proxy.faults.append(AwsFault("TerminateInstanceInAutoScalingGroup", done=True))
    with pytest.raises(ProviderError):
        await provider.remove(chosen)
    assert proxy.count("TerminateInstanceInAutoScalingGroup") == 1
    found = await provider.describe()
    assert chosen.id not in {instance.id for instance in found.instances}
    assert found.desired == 2


async def test_an_instance_that_is_gone_is_told_from_other_errors(
    provider: Ec2Provider, cloud: MotoCloud, proxy: AwsProxy, group: str
) -> None:
    cloud.make(group, size=1)
    chosen = (await provider.describe()).instances[0]
    message = f"Instance Id not found - No managed instance found for instance ID: {chosen.id}"
    proxy.faults.append(AwsFault("TerminateInstanceInAutoScalingGroup", "ValidationError", message))
    with pytest.raises(InstanceGoneError):
        await provider.remove(chosen)


async def test_what_is_not_allowed_is_said_as_aws_says_it(
    provider: Ec2Provider, cloud: MotoCloud, proxy: AwsProxy, group: str
) -> None:
    cloud.make(group, size=1)
    words = "User: x is not authorized to perform: autoscaling:SetDesiredCapacity"
    proxy.faults.append(AwsFault("SetDesiredCapacity", "AccessDenied", words, status=403))
    with pytest.raises(ProviderRefusedError, match="not authorized to perform: autoscaling:SetDesiredCapacity"):
        await provider.grow(await provider.describe(), 2)


async def test_a_process_that_no_longer_leads_orders_nothing(cloud: MotoCloud, proxy: AwsProxy, group: str) -> None:
    cloud.make(group, size=2)
    provider = Ec2Provider(Ec2AutoScalingGroup(name=group, region=REGION), may_act=lambda: False)
    found = await provider.describe()
    with pytest.raises(WritesClosedError):
        await provider.grow(found, 3)
    with pytest.raises(WritesClosedError):
        await provider.remove(found.instances[0])
    provider.close()
    assert {action for action, _ in proxy.calls} == {"DescribeAutoScalingGroups"}
    assert len(cloud.instances(group)) == 2
