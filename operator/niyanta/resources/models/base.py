"""Base of the custom resources' models: strict camelCase models, shared types and validation rules.

A rule is written once, as CEL text and as the same test in Python. `crds.py` puts the CEL into the schemas, the models
run the Python, so both doors accept the same manifests. `InvalidManifestError` is raised for all others.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic import model_validator as _model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

VALIDATIONS = "x-kubernetes-validations"
PRESERVE = "x-kubernetes-preserve-unknown-fields"
REFUSED = "x-refused"
"""Key of the schema of a field that a rule refuses: the CRD has only its types, so that the rule's message is shown."""


class InvalidManifestError(ValueError):
    """A manifest that can't be accepted: `field` is the path of the field (`spec.replicas`), `value` its value."""

    def __init__(self, field: str, value: object, message: str) -> None:
        # A path may contain keys of the user's, and is stored and shown; Postgres stores no NUL.
        field = field if field.isprintable() else repr(field)[1:-1]
        super().__init__(f"{field}: {message}" + (f" (got {_shown(value)})" if value is not None else ""))
        self.field = field
        self.value = value
        self.message = message


class _BoundedRepr(reprlib.Repr):
    """Texts of values of any size and depth."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 100, 100

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"


_REPR = _BoundedRepr()
MAX_KEY_CHARACTERS = 100


def _shown(value: object) -> str:
    return _REPR.repr(value)[:100]


@dataclass(frozen=True, slots=True)
class Rule:
    """One validation rule.

    `cel` is evaluated by the API server with `self` bound to the object (empty: CEL can't express it, only Python
    checks); `check` is the same test on the model, True when the object is valid. `field` is the path of the wrong
    field relative to the object, such as `.nodeName`; empty: the object itself. (Metadata isn't part of a CRD's schema,
    so the API server can't report its path; the message names it.)
    """

    cel: str
    check: Callable[[Any], bool]
    message: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class Transition:
    """One rule over an update of an object, which only the API server checks. `field` as in `Rule`."""

    cel: str
    message: str
    field: str


def as_validation(rule: Rule | Transition) -> dict[str, Any]:
    """The rule as an entry of x-kubernetes-validations."""
    found: dict[str, Any] = {"rule": rule.cel, "message": rule.message}
    if rule.field and not rule.field.startswith(".metadata"):
        found["fieldPath"] = rule.field
    return found


def _check_rules(rules: tuple[Rule, ...], value: Any) -> None:
    for rule in rules:
        if not rule.check(value):
            raise PydanticCustomError("rule", "{reason}", {"reason": rule.message, "field": rule.field})


class Ruled:
    """Annotation that puts rules on a type which isn't a model: `Annotated[dict[str, str], Ruled(rule)]`."""

    def __init__(self, *rules: Rule, schema: JsonSchemaValue | None = None) -> None:
        self.rules = rules
        self.schema = schema
        """Replaces the schema of the type."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any) -> Any:
            _check_rules(self.rules, value)
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = dict(self.schema) if self.schema else handler(schema)
        validations = [as_validation(rule) for rule in self.rules if rule.cel]
        if validations:
            found[VALIDATIONS] = [*found.get(VALIDATIONS, []), *validations]
        return found


@cache
def _known(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}


def _is_whole(value: float) -> bool:
    """True for an integer of at most 64 bits; larger ones couldn't be encoded again."""
    return value.is_integer() and abs(value) < 2**63


def without_nulls(value: Any) -> Any:
    """The map without null entries, which the API server prunes."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class Model(BaseModel):
    """A part of a custom resource. Types aren't coerced, like in the API server.

    Unknown fields are rejected, not ignored: an operator older than its CRD must not place a workload without a
    constraint that it doesn't know. Null means absent, because the API server prunes it.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, strict=True, extra="forbid"
    )
    rules: ClassVar[tuple[Rule, ...]] = ()
    transitions: ClassVar[tuple[Transition, ...]] = ()

    @_model_validator(mode="before")
    @classmethod
    def _normalise(cls, data: Any) -> Any:
        """Drop nulls of known fields and turn floats such as 20.0 into integers, as the API server does."""
        if not isinstance(data, dict) or not any(value is None or type(value) is float for value in data.values()):
            return data
        known = _known(cls)
        return {
            key: int(value) if key in known and type(value) is float and _is_whole(value) else value
            for key, value in data.items()
            if value is not None or key not in known
        }

    @_model_validator(mode="after")
    def _check_model_rules(self) -> Any:
        _check_rules(self.rules, self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler(schema)
        body = handler.resolve_ref_schema(found)
        rules: tuple[Rule | Transition, ...] = (*cls.rules, *cls.transitions)
        validations = [as_validation(rule) for rule in rules if rule.cel]
        if validations:
            body[VALIDATIONS] = validations
        return found

    def manifest(self) -> dict[str, Any]:
        """The camelCase form, as given: without the defaults that were filled in."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class OpenModel(Model):
    """A part of the pod template: only fields that affect placement are modelled, the others are kept unchanged."""

    model_config = ConfigDict(extra="allow")


M = TypeVar("M", bound=Model)


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in location if part != "[key]")


def _key(key: str) -> str:
    """A key of the user's, of bounded length."""
    return key if len(key) <= MAX_KEY_CHARACTERS else key[:MAX_KEY_CHARACTERS] + "..."


def manifest_errors(error: ValidationError, root: str = "") -> list[InvalidManifestError]:
    """Every error of a pydantic ValidationError, with paths as the API server writes them, below `root` (`spec`)."""
    found = []
    for item in error.errors(include_url=False):
        context = item.get("ctx", {})
        path = (root + _path(item["loc"]) + str(context.get("field", ""))).lstrip(".")
        value = context.get("value") if item["type"] in ("missing", "rule") else item["input"]
        message = {"missing": "Required value", "extra_forbidden": "unknown field"}.get(item["type"], item["msg"])
        found.append(InvalidManifestError(path or "(root)", value, message))
    return found


def parse(kind: type[M], manifest: Any, *, root: str = "") -> M:
    """`manifest` as a `kind`; raises InvalidManifestError for the first error. `root` is its path in the object."""
    try:
        return kind.model_validate(manifest)
    except ValidationError as error:
        raise manifest_errors(error, root)[0] from None


# --- Types -----------------------------------------------------------------------------------------------------------

DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
LABEL_VALUE_PATTERN = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
LABEL_KEY_PATTERN = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$"

DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL_PATTERN)]
CustomerName = DnsLabel
"""Name of a Customer: the rule of `metadata.name`, and of every field that names one."""
Word = Annotated[str, Field(min_length=1, max_length=63, pattern=LABEL_VALUE_PATTERN)]
"""A name that must also work as a label value: capability, workload type, region, GPU model."""
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE_PATTERN)]
LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=LABEL_KEY_PATTERN)]
NodeName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
