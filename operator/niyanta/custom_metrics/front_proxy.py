"""Authentication of callers: the adapter answers only the API server's front proxy.

The API server authenticates and authorises each user before it passes a request on, with a client certificate of its
own and the user's name in headers. The headers are trusted only together with that certificate, because other clients
could write any name. The ConfigMap kube-system/extension-apiserver-authentication has the certificate's authorities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from niyanta import bounded_json
from niyanta.custom_metrics.documents import StatusError, StatusReason

_MAX_LIST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """Content of the ConfigMap. Without `authorities` no caller can be authenticated."""

    authorities: str = ""
    """In PEM."""
    allowed_names: frozenset[str] = frozenset()
    """Allowed common names; empty: every certificate of the authorities."""
    user_headers: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> FrontProxy:
        """Parse the ConfigMap's data. If a list can't be parsed, no caller is trusted; an empty one would trust all."""
        try:
            return cls(
                authorities=data.get("requestheader-client-ca-file", "").strip(),
                allowed_names=frozenset(_words(data.get("requestheader-allowed-names"))),
                user_headers=tuple(_words(data.get("requestheader-username-headers"))),
            )
        except ValueError:
            return cls()

    def trusts(self, certificate: Mapping[str, Any] | None) -> bool:
        """True if `certificate`, in the form of `user`'s, is one of the front proxy."""
        if not self.authorities or not certificate:
            return False
        return not self.allowed_names or bool(self.allowed_names & set(_common_names(certificate)))

    def user(self, certificate: Mapping[str, Any] | None, headers: Mapping[str, str]) -> str:
        """The user for whom the front proxy sends the request. Raises StatusError.

        `certificate` is the client certificate that the TLS layer verified, in the form of ssl.getpeercert(); None or
        empty if the client presented none.
        """
        if not self.authorities:
            raise StatusError(
                StatusReason.UNAUTHORIZED,
                "kube-system/extension-apiserver-authentication names no requestheader-client-ca-file, or can't be "
                "read: the API server can't be authenticated",
            )
        if not certificate:
            raise StatusError(
                StatusReason.UNAUTHORIZED,
                "only the API server may send requests: use kubectl get --raw, which goes through it",
            )
        names = _common_names(certificate)
        if self.allowed_names and not self.allowed_names & set(names):
            raise StatusError(
                StatusReason.FORBIDDEN,
                f"the client certificate's name ({', '.join(names)}) is not one of requestheader-allowed-names",
            )
        user = next((headers[name] for name in self.user_headers if headers.get(name)), "")
        if not user:
            headers_expected = ", ".join(self.user_headers)
            raise StatusError(StatusReason.UNAUTHORIZED, f"no user is named: expected in {headers_expected}")
        return user


def _words(text: str | None) -> list[str]:
    """The words of a JSON list; empty without text. Raises ValueError if it is not a list of words."""
    found = bounded_json.decode(text or "[]", max_bytes=_MAX_LIST_BYTES, max_depth=2)
    if not isinstance(found, list) or not all(isinstance(word, str) and word for word in found):
        raise ValueError("not a list of words")
    return found


def _common_names(certificate: Mapping[str, Any]) -> list[str]:
    return [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
