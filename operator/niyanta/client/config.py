"""The client's configuration: the server's address and the API key, from flags, NIYANTA_* variables or a file."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from niyanta.client.errors import UsageError

VARIABLES: Mapping[str, str] = {
    "url": "NIYANTA_API_URL",
    "key": "NIYANTA_API_KEY",
    "ca_file": "NIYANTA_CA_FILE",
    "retry_seconds": "NIYANTA_RETRY_SECONDS",
}
"""Key of the file -> environment variable; the flags have similar names."""
PROFILE_VARIABLE = "NIYANTA_PROFILE"
FILE_VARIABLE = "NIYANTA_CONFIG"
RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Config:
    """Attributes:
    url: the server's address without a trailing slash.
    key: API key, or empty.
    ca_file: certificates to trust instead of the system's.
    retry_seconds: time for which a request is retried while the server is unreachable.
    warnings: messages for stderr.
    """

    url: str
    key: str = ""
    ca_file: str = ""
    retry_seconds: float = RETRY_SECONDS
    warnings: tuple[str, ...] = ()


def config_path(environ: Mapping[str, str]) -> Path:
    """NIYANTA_CONFIG, or niyanta/config.toml below XDG_CONFIG_HOME (default ~/.config)."""
    if chosen := environ.get(FILE_VARIABLE):
        return Path(chosen)
    base = environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification says to ignore relative paths.
    home = Path(base) if base.startswith("/") else Path.home() / ".config"
    return home / "niyanta" / "config.toml"


def resolve(
    flags: Mapping[str, Any], *, profile: str | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """The configuration of one command.

    Args:
        flags: values by keys of VARIABLES; None or missing when not given.
        profile: --profile.
        environ: the process's environment by default.

    Raises:
        UsageError: no address, an invalid file or value, an unknown profile.
    """
    environ = os.environ if environ is None else environ
    path = config_path(environ)
    chosen = profile or environ.get(PROFILE_VARIABLE)
    values, warnings = _from_file(path, chosen, must_exist=FILE_VARIABLE in environ)
    for name, variable in VARIABLES.items():
        if environ.get(variable):
            values[name] = environ[variable]
        if flags.get(name) is not None:
            values[name] = flags[name]
    url = str(values.get("url", "")).rstrip("/")
    if not url:
        hint = f"use --api-url, set {VARIABLES['url']}, or write `url = ...` to {path}"
        raise UsageError("no server is configured", hint)
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UsageError(f"{url!r} is not the address of a server: it must start with https:// or http://")
    ca_file = str(values.get("ca_file", ""))
    if ca_file and not Path(ca_file).expanduser().is_file():
        raise UsageError(f"the CA file {ca_file} doesn't exist")
    key = str(values.get("key", "")).strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise UsageError("the API key contains invalid characters")
    return Config(
        url=url,
        key=key,
        ca_file=str(Path(ca_file).expanduser()) if ca_file else "",
        retry_seconds=_seconds(values.get("retry_seconds", RETRY_SECONDS)),
        warnings=tuple(warnings),
    )


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise UsageError(f"retry_seconds must be from 0 to 86400, not {value!r}")
    return seconds


def _from_file(path: Path, profile: str | None, *, must_exist: bool) -> tuple[dict[str, Any], list[str]]:
    """Values of the file, with those of the profile taking precedence, and warnings."""
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except FileNotFoundError:
        if must_exist:
            raise UsageError(f"the configuration file {path} doesn't exist") from None
        if profile:
            raise UsageError(f"no profile {profile!r}: the configuration file {path} doesn't exist") from None
        return {}, []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read {path}: {error}") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    profiles = document.pop("profiles", {})
    default = document.pop("profile", None)
    _check(document, path, "")
    if not isinstance(profiles, dict) or not all(isinstance(part, dict) for part in profiles.values()):
        raise UsageError(f"{path}: profiles must be tables, such as [profiles.staging]")
    for name, part in profiles.items():
        _check(part, path, f"profiles.{name}.")
    values = dict(document)
    if name := profile or default:
        if name not in profiles:
            raise UsageError(
                f"{path}: no profile {name!r} (profiles in the file: {', '.join(sorted(profiles)) or 'none'})"
            )
        # A profile with its own address needs its own key: the general key must not be sent to another server.
        if "url" in profiles[name]:
            values.pop("key", None)
        values |= profiles[name]
    holds_key = "key" in document or any("key" in part for part in profiles.values())
    if holds_key and mode & (stat.S_IRGRP | stat.S_IROTH):
        return values, [f"{path} contains an API key and other users can read it: chmod 600 {path}"]
    return values, []


def _check(values: Mapping[str, Any], path: Path, prefix: str) -> None:
    for name, value in values.items():
        if name not in VARIABLES:
            raise UsageError(f"{path}: unknown key {prefix}{name} (known: {', '.join(VARIABLES)}, profile, profiles)")
        if not isinstance(value, str) and not (name == "retry_seconds" and isinstance(value, int | float)):
            raise UsageError(f"{path}: {prefix}{name} must be a string")
