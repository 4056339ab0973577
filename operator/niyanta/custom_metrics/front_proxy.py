"""Authentication of callers: only the API server's front proxy may ask the adapter.

The API server authenticates and authorises each user before it passes a request on, then shows a client certificate and
names the user in headers. Whoever reaches the port without that certificate could write any name there, so the headers
count only beside it. What the certificate must be like is published in the ConfigMap
kube-system/extension-apiserver-authentication.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from niyanta.custom_metrics.documents import StatusError


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """Content of the ConfigMap. Without `authorities` no caller can be authenticated."""

    authorities: str = ""
    """PEM."""
    allowed_names: frozenset[str] = frozenset()
    """Common names; empty: any that the authorities signed."""
    user_headers: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> FrontProxy:
        """From the ConfigMap's data. Lists that can't be read leave nobody trusted: an empty one would trust all."""
        try:
            return cls(
                authorities=data.get("requestheader-client-ca-file", "").strip(),
                allowed_names=frozenset(_words(data.get("requestheader-allowed-names"))),
                user_headers=tuple(_words(data.get("requestheader-username-headers"))),
            )
        except ValueError:
            return cls()

    def user(self, certificate: Mapping[str, Any] | None, headers: Mapping[str, str]) -> str:
        """The user on whose behalf the front proxy asks. Raises Refusal.

        `certificate` is what the TLS layer verified, in the form of ssl.getpeercert(); None or empty: none was shown.
        """
        if not self.authorities:
            raise StatusError(
                401,
                "Unauthorized",
                "kube-system/extension-apiserver-authentication names no requestheader-client-ca-file, or can't be "
                "read: the API server can't be told from others",
            )
        if not certificate:
            raise StatusError(
                401, "Unauthorized", "only the API server may ask here: use kubectl get --raw, which goes through it"
            )
        names = _common_names(certificate)
        if self.allowed_names and not self.allowed_names & set(names):
            raise StatusError(
                403,
                "Forbidden",
                f"the client certificate is {', '.join(names) or 'nobody'}'s, which is not one of "
                "requestheader-allowed-names",
            )
        user = next((headers[name] for name in self.user_headers if headers.get(name)), "")
        if not user:
            raise StatusError(401, "Unauthorized", f"no user is named: expected in {', '.join(self.user_headers)}")
        return user


def _words(text: str | None) -> list[str]:
    """A JSON list of words; none when there is nothing. Raises ValueError for anything else."""
    found = orjson.loads(text or "[]")
    if not isinstance(found, list) or not all(isinstance(word, str) and word for word in found):
        raise ValueError("not a list of words")
    return found


def _common_names(certificate: Mapping[str, Any]) -> list[str]:
    return [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
