"""Object metadata, conditions and the name rule, shared by the three resources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from niyanta.resources.models.base import (
    DNS_LABEL_PATTERN,
    InvalidManifestError,
    LabelKey,
    LabelValue,
    OpenModel,
    Rule,
)
from niyanta.resources.models.base import Model as _Model


class Metadata(OpenModel):
    """Object metadata that the operator reads; the API server validates the rest."""

    name: str = Field("", max_length=253, description="Name of the object.")
    namespace: str = Field("", max_length=63, description="Namespace of the object.")
    uid: str = Field("", description="UID of the object.")
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, description="Labels of the object.")
    generation: int = Field(0, description="Generation of the spec.")
    creation_timestamp: str = Field("", description="RFC 3339 time of creation.")
    resource_version: str = Field("", description="Version of the object.")
    deletion_timestamp: str | None = Field(None, description="RFC 3339 time of the deletion request.")


MAX_LABELS = 128


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidManifestError for more labels than placement keeps in memory. The API server limits only the size of
    an object, and CEL has no access to labels."""
    if len(labels) > MAX_LABELS:
        raise InvalidManifestError("metadata.labels", None, f"Too many: must have at most {MAX_LABELS} items")


class Condition(_Model):
    """One condition, as in the resources of Kubernetes."""

    type: Annotated[str, Field(min_length=1, max_length=316)] = Field(description="Type of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    observed_generation: int | None = Field(None, description="Generation that the condition describes.")
    last_transition_time: str = Field(
        description="Time of the last change of status.", json_schema_extra={"format": "date-time"}
    )
    reason: Annotated[str, Field(max_length=1024)] = Field(description="Reason in one word.")
    message: Annotated[str, Field(max_length=32768)] = Field("", description="Explanation of the reason.")


def name_rule(longest: int) -> Rule:
    """Rule: the object's name is a DNS-1123 label of at most `longest` characters."""
    return Rule(
        f"self.metadata.name.size() <= {longest} && self.metadata.name.matches('{DNS_LABEL_PATTERN}')",
        lambda o: len(o.metadata.name) <= longest and re.fullmatch(DNS_LABEL_PATTERN, o.metadata.name) is not None,
        f"metadata.name: must be a DNS label (a-z, 0-9, -) of at most {longest} characters",
        ".metadata.name",
    )
