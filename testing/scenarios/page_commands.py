"""Commands of a documentation page, run as a reader would type them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testing.environment import Environment
from testing.processes.niyanta import clean_environment, niyanta_command
from testing.processes.run_directory import REPO

_BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended. `output` has stdout and stderr."""

    code: int
    output: str


def commands(page: str) -> list[str]:
    """The commands in the `sh` blocks of docs/`page`, in order, one a line; a line that ends with a backslash
    continues."""
    found: list[str] = []
    for indent, block in _BLOCK.findall((REPO / "docs" / page).read_text(encoding="utf-8")):
        lines = (line.removeprefix(indent) for line in block.replace("\\\n", " ").splitlines())
        found += [line for line in lines if line.strip()]
    return found


class Reader:
    """Runs commands in a folder that has the repository's `crds` and `charts`, with an administrator's kubeconfig and
    the environment's database."""

    def __init__(self, env: Environment, folder: Path) -> None:
        self._folder = folder
        for name in ("crds", "charts"):
            (folder / name).symlink_to(REPO / name)
        programs = [str(Path(niyanta_command()).parent), *([str(env.cluster.bin_dir)] if env.cluster.bin_dir else [])]
        self._environment: Mapping[str, str] = {
            **clean_environment(),
            "PATH": os.pathsep.join([*programs, os.environ["PATH"]]),
            "KUBECONFIG": str(env.cluster.kubeconfig),
            "NIYANTA_DSN": env.dsn,
            **{f"HELM_{what}_HOME": str(folder / what.lower()) for what in ("CACHE", "CONFIG", "DATA")},
        }

    def run(self, command: str, *, timeout: float = 180) -> Done:
        """Run one command by a shell."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout)
