"""Builds the test cluster's tools from pinned Go modules, once per machine.

Standard library only, so it runs on a fresh machine before there is a virtual environment. Binaries are built into a
user-level cache keyed by a stamp (go.mod, go.sum, flags, Go version), then hard-linked into the checkout's .cache/bin:
a second clone on the same machine builds nothing. `ensure_tools` returns the folder of binaries.

A tool whose dependencies would raise the control plane's (gRPC, say) has a go.mod of its own in a folder below.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MODULE = Path(__file__).resolve().parent
REPO = MODULE.parent.parent
MIN_GO = (1, 26)
KUBERNETES_VERSION = "v1.37.2"
OLDEST = "kubernetes-1.32"
"""Module of the oldest API server that is supported."""
OLDEST_KUBERNETES_VERSION = "v1.32.13"
VERSION_PACKAGE = "k8s.io/component-base/version"


@dataclass(frozen=True)
class Tool:
    """A binary: its name, and the Go package it is built from."""

    name: str
    package: str
    module: str = ""
    """Folder of the tool's go.mod below this one; empty for this folder."""
    tags: str = ""
    """Go's build tags."""


PROMETHEUS_TAGS = "remove_all_sd,enable_static_sd,enable_file_sd"
"""Leaves out service discovery of cloud providers, and with it their clients."""

# In the order in which a control plane needs them, so that an interrupted build has the most useful ones.
TOOLS: tuple[Tool, ...] = (
    Tool("etcd", "go.etcd.io/etcd/server/v3"),
    Tool("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Tool("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    Tool("kwokctl", "sigs.k8s.io/kwok/cmd/kwokctl"),
    Tool("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    Tool("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Tool("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    Tool("helm", "helm.sh/helm/v4/cmd/helm"),
    Tool("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
    Tool("kind", "sigs.k8s.io/kind"),
    Tool("prometheus", "github.com/prometheus/prometheus/cmd/prometheus", module="prometheus", tags=PROMETHEUS_TAGS),
    Tool("promtool", "github.com/prometheus/prometheus/cmd/promtool", module="prometheus", tags=PROMETHEUS_TAGS),
    Tool("keda-operator", "github.com/kedacore/keda/v2/cmd/operator", module="keda"),
    Tool("keda-adapter", "github.com/kedacore/keda/v2/cmd/adapter", module="keda"),
    Tool("kube-apiserver-1.32", "k8s.io/kubernetes/cmd/kube-apiserver", module=OLDEST),
    Tool("prometheus-adapter", "sigs.k8s.io/prometheus-adapter/cmd/adapter", module="prometheus-adapter"),
)
BY_NAME = {tool.name: tool for tool in TOOLS}

TESTS_ONLY = ("kubeconform", "prometheus", "promtool")
"""Tools that only tests need."""

OTHERS = ("keda-operator", "keda-adapter", "prometheus-adapter")
"""Tools that only `make e2e-keda` needs; they build for about 12 minutes."""

OLDEST_API_SERVER = "kube-apiserver-1.32"
"""Tool that only `make e2e-oldest` needs."""

CONTROL_PLANE = tuple(t.name for t in TOOLS if t.name not in {*TESTS_ONLY, *OTHERS, OLDEST_API_SERVER, "kind"})
"""Tools that the demo and `make up` need."""

WITH_DOCKER = ("kind", "kubectl", "helm", "kwok")
"""Tools that a machine with a Docker engine needs instead; those on PATH are preferred."""


class ToolError(RuntimeError):
    """The tools can't be built; the message says how to proceed."""


def ldflags(module: str = "") -> str:
    """Linker flags. Without the version the server reports v0.0.0, which some clients refuse."""
    version = OLDEST_KUBERNETES_VERSION if module == OLDEST else KUBERNETES_VERSION
    major, minor, _ = version.lstrip("v").split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(["-s -w", *(f"-X {VERSION_PACKAGE}.{key}={value}" for key, value in values.items())])


def build_command(tool: Tool, output: Path) -> list[str]:
    flags = ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", ldflags(tool.module)]
    if tool.tags:
        flags += ["-tags", tool.tags]
    return ["go", "build", *flags, "-o", str(output), tool.package]


def build_environment() -> dict[str, str]:
    # GOFLAGS and GOWORK of the user's shell must not affect the build.
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}


def go_version() -> str | None:
    """Output of `go version`; None when Go is missing or too old."""
    if shutil.which("go") is None:
        return None
    out = subprocess.run(["go", "version"], cwd=MODULE, capture_output=True, text=True, check=False).stdout.strip()
    found = re.search(r"go(\d+)\.(\d+)", out)
    if found is None or (int(found[1]), int(found[2])) < MIN_GO:
        return None
    return out


def source_hash(module: str = "") -> str:
    """Hash of the sources of one module: its versions and flags, without the compiler."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((MODULE / module / name).read_bytes())
    digest.update(ldflags(module).encode())
    for tool in TOOLS:
        if tool.module == module:
            digest.update(tool.tags.encode())
    return digest.hexdigest()[:12]


def stamp(go: str, module: str = "") -> str:
    return f"{source_hash(module)}-{hashlib.sha256(go.encode()).hexdigest()[:8]}"


def user_cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "niyanta" / "tools"


def default_bin() -> Path:
    """Default folder of the binaries: NIYANTA_TOOLS_DIR, or .cache/bin in the checkout."""
    override = os.environ.get("NIYANTA_TOOLS_DIR")
    return Path(override).resolve() if override else REPO / ".cache" / "bin"


def ensure_tools(names: Iterable[str] = CONTROL_PLANE, *, bin_dir: Path | None = None) -> Path:
    """Builds the named tools that are missing in `bin_dir`; returns the folder.

    Raises:
        ToolError: a build failed, or Go is missing or too old and no earlier build matches.
    """
    target = bin_dir or default_bin()
    by_module: dict[str, list[str]] = {}
    for name in names:
        by_module.setdefault(BY_NAME[name].module, []).append(name)
    go = go_version()
    for module, wanted in by_module.items():
        _ensure_module(module, wanted, target, go)
    return target


def _ensure_module(module: str, wanted: Sequence[str], target: Path, go: str | None) -> None:
    cache = _cache_for(go, module)
    if cache is None:
        if _all_present(target, wanted) and _stamped(target, module, source_hash(module)):
            return
        raise ToolError(_no_go_message())
    if _all_present(target, wanted) and _stamped(target, module, cache.name):
        return
    if missing := [name for name in wanted if not (cache / name).exists()]:
        if go is None:
            raise ToolError(_no_go_message())
        with _lock(cache):
            _build_all([BY_NAME[name] for name in missing], cache)
    _link_all(wanted, cache, target, module)


def docker_answers() -> bool:
    """True when a Docker engine answers; the docker command alone is not enough."""
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def needed_here(*, control_plane: bool) -> tuple[str, ...]:
    """Tools that this machine must build: for the demo (`control_plane`), or for the tests."""
    tests_only = () if control_plane else TESTS_ONLY
    if os.environ.get("NIYANTA_E2E_KUBECONFIG"):
        return tests_only
    if docker_answers():
        return (*(name for name in WITH_DOCKER if shutil.which(name) is None), *tests_only)
    return (*CONTROL_PLANE, *tests_only)


def _cache_for(go: str | None, module: str) -> Path | None:
    """Cache folder of this compiler; without Go, any folder that was built from the same sources."""
    if go is not None:
        return user_cache() / stamp(go, module)
    return next(iter(sorted(user_cache().glob(f"{source_hash(module)}-*"))), None)


def _all_present(folder: Path, names: Iterable[str]) -> bool:
    return all((folder / name).exists() for name in names)


def _stamp_file(folder: Path, module: str) -> Path:
    return folder / (f".stamp-{module}" if module else ".stamp")


def _stamped(folder: Path, module: str, prefix: str) -> bool:
    with suppress(OSError):
        return _stamp_file(folder, module).read_text().startswith(prefix)
    return False


def _no_go_message() -> str:
    need = ".".join(map(str, MIN_GO))
    return (
        f"The test cluster is built from Go modules, and there is no Go >= {need} here (nor tools built earlier).\n"
        f"Either install Go {need} or later (https://go.dev/dl), or install Docker, kind, kwok, kubectl and helm and "
        "start the Docker engine,\nor point NIYANTA_E2E_KUBECONFIG at a cluster of your own (kubectl and helm on PATH)."
    )


@contextmanager
def _lock(cache: Path) -> Iterator[None]:
    """Allows one build per stamp at a time; a second run waits, and then has nothing to build."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another run is building the tools; waiting for it ...")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build_all(tools: Sequence[Tool], cache: Path) -> None:
    todo = [tool for tool in tools if not (cache / tool.name).exists()]
    if not todo:
        return
    names = ", ".join(tool.name for tool in todo)
    _say(f"Building with Go for the test cluster: {names}. The first time takes about 8 minutes on 2 cores.")
    began = time.monotonic()
    for number, tool in enumerate(todo, start=1):
        _build_one(tool, cache, label=f"[{number}/{len(todo)}] {tool.name}", began=began)
    _say(f"Tools are ready after {_clock(time.monotonic() - began)}.")


def _build_one(tool: Tool, cache: Path, *, label: str, began: float) -> None:
    # The binary gets its name in the cache only when it is complete: an interrupted build leaves none.
    partial = cache / f".{tool.name}.{os.getpid()}"
    log = cache / f"{tool.name}.log"
    started = time.monotonic()
    if not sys.stderr.isatty():
        _say(f"{label} ...")
    try:
        with log.open("w") as output:
            process = subprocess.Popen(
                build_command(tool, partial),
                cwd=MODULE / tool.module,
                env=build_environment(),
                stdout=output,
                stderr=output,
            )
            try:
                _follow(process, label, started, began)
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if process.returncode != 0:
            tail = "\n".join(log.read_text().splitlines()[-20:])
            raise ToolError(f"go build of {tool.package} failed:\n{tail}")
        partial.replace(cache / tool.name)
    finally:
        partial.unlink(missing_ok=True)
    _say(f"{label} built in {_clock(time.monotonic() - started)}", over=True)


def _follow(process: subprocess.Popen[bytes], label: str, started: float, began: float) -> None:
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
            return
        if sys.stderr.isatty():
            now = time.monotonic()
            sys.stderr.write(f"\r\033[K{label} {_clock(now - started)} (in all {_clock(now - began)})")
            sys.stderr.flush()


def _link_all(names: Iterable[str], cache: Path, target: Path, module: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    # A folder with another stamp has tools of other versions, which must be removed.
    if not _stamped(target, module, cache.name):
        for tool in TOOLS:
            if tool.module == module:
                (target / tool.name).unlink(missing_ok=True)
    for name in names:
        partial = target / f".{name}.{os.getpid()}"
        partial.unlink(missing_ok=True)
        try:
            os.link(cache / name, partial)
        except OSError:  # another file system
            shutil.copy2(cache / name, partial)
        partial.replace(target / name)
    note = target / f".stamp.{os.getpid()}"
    note.write_text(cache.name + "\n")
    note.replace(_stamp_file(target, module))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _say(text: str, *, over: bool = False) -> None:
    start = "\r\033[K" if over and sys.stderr.isatty() else ""
    print(f"{start}{text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the test cluster's tools.")
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"any of: {', '.join(BY_NAME)}")
    parser.add_argument("--control-plane", action="store_true", help="only what the demo needs")
    parser.add_argument("--keda", action="store_true", help="the control plane, KEDA and prometheus-adapter")
    parser.add_argument("--oldest", action="store_true", help="the control plane and the oldest supported API server")
    parser.add_argument("--print-stamp", action="store_true", help="print the stamp and build nothing")
    options = parser.parse_args()
    if unknown := set(options.tools) - set(BY_NAME):
        parser.error(f"unknown tools: {', '.join(sorted(unknown))}")
    try:
        if options.print_stamp:
            go = go_version()
            print(stamp(go) if go else source_hash())
            return 0
        others = (*(("prometheus", *OTHERS) if options.keda else ()), *((OLDEST_API_SERVER,) if options.oldest else ()))
        small = options.control_plane or options.keda or options.oldest
        ensure_tools(options.tools or (*needed_here(control_plane=small), *others))
    except ToolError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; what was built is kept.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
