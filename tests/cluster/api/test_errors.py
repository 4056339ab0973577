"""No text of users decides the kind of an error: every phrase of the error handling is put where users can write."""

from __future__ import annotations

import orjson
import pytest

from niyanta.cluster.api.errors import FENCE_REFUSAL, QUOTA_REFUSALS, ErrorKind, error_from, error_kind
from tests.fakes.scripted_api_server import status

pytestmark = pytest.mark.unit

PHRASES = (
    FENCE_REFUSAL,
    f'pods "p" is forbidden: {FENCE_REFUSAL}this pod comes from a leader that has been replaced',
    *QUOTA_REFUSALS,
    *(f'pods "p" is forbidden: {phrase}' for phrase in QUOTA_REFUSALS),
    "because it is being terminated",
    "NamespaceTerminating",
    "metadata.uid",
    "AlreadyExists",
    "the UID in the precondition (a) does not match",
    "etcdserver: request timed out",
    "context deadline exceeded",
)

FRAMES = (
    'Pod "p" is invalid: spec.containers[0].env[0].name: Invalid value: "{}": a valid environment variable name',
    'pods "p" is forbidden: violates PodSecurity "restricted:latest": volume "{}" must not use hostPath',
    'pods "p" is forbidden: error looking up service account ns/{}: serviceaccount "{}" not found',
    'pods "p" is forbidden: no PriorityClass with name {} was found',
    'admission webhook "{}" denied the request: {}',
    "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'team' with binding 'team' denied request: {}",
)
"""Messages of the API server with places for text of users."""

DETAILS = {"kind": "pods", "name": "p"}


@pytest.mark.parametrize("phrase", PHRASES)
@pytest.mark.parametrize("frame", FRAMES)
def test_phrases_in_text_of_users_decide_nothing(frame: str, phrase: str) -> None:
    message = frame.replace("{}", phrase)
    cause = {"reason": "FieldValueInvalid", "message": message, "field": f"spec.containers[0].env[0].{phrase}"}
    details = DETAILS | {"causes": [cause]}
    kinds = {
        code: error_kind(error_from(code, orjson.dumps(status(code, reason, message, **details))))
        for code, reason in ((403, "Forbidden"), (422, "Invalid"), (500, "InternalError"), (400, "BadRequest"))
    }
    assert kinds == {
        403: ErrorKind.FORBIDDEN,
        422: ErrorKind.INVALID,
        500: ErrorKind.UNKNOWN_OUTCOME,
        400: ErrorKind.INVALID,
    }


def test_messages_are_short_and_can_be_stored() -> None:
    message = "a\0b" + "x" * 100_000
    found = error_from(422, orjson.dumps(status(422, "Invalid", message))).message
    assert found.startswith("abx")
    assert len(found) < 5_000


@pytest.mark.parametrize("details", [{}, {"causes": "text"}, {"causes": ["text", None]}, {"name": None, "kind": 7}])
def test_odd_details_are_no_error_of_their_own(details: dict[str, object]) -> None:
    for code in (403, 409, 422, 500):
        assert error_kind(error_from(code, orjson.dumps(status(code, "Odd", "odd", **details)))) in ErrorKind
