"""The metrics adapter's Service for operators that are local processes: a TCP proxy on one port, like kube-proxy.

API servers reach it through a Service of type ExternalName (`localhost`). The proxy is the process
`python -m testing.processes.adapter_service PORT BACKEND..`: it forwards each connection to the next backend port that
accepts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testing.processes.free_ports import free_ports
from testing.processes.niyanta import clean_environment
from testing.processes.run_directory import REPO, RunDir

SERVICE = "niyanta-metrics-adapter"
_MOST_OPERATORS = 6


@dataclass
class AdapterService:
    """The port that API servers connect to, and the ports of the operators behind it."""

    port: int
    behind: tuple[int, ...]
    _given: dict[str, int] = field(default_factory=dict)

    @classmethod
    def start(cls, run: RunDir) -> AdapterService:
        """Starts the proxy; it ends with the run, which may outlive this process."""
        port, *behind = free_ports(1 + _MOST_OPERATORS)
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(port), *map(str, behind)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=clean_environment(),
            cwd=REPO,
        )
        run.adopt("adapter-service", child.pid)
        return cls(port, tuple(behind))

    def chart_values(self) -> dict[str, Any]:
        """Values that the chart must be installed with."""
        return {"metricsAdapter": {"enabled": True, "port": self.port, "externalName": "localhost"}}

    def operator_env(self, identity: str) -> Mapping[str, str]:
        """Environment variables of one operator. Ports are assigned in turn, and reused after the last."""
        if identity not in self._given:
            self._given[identity] = self.behind[len(self._given) % len(self.behind)]
        return {
            "NIYANTA_METRICS_ADAPTER": "true",
            "NIYANTA_METRICS_ADAPTER_HOST": "127.0.0.1",
            "NIYANTA_METRICS_ADAPTER_PORT": str(self._given[identity]),
            "NIYANTA_METRICS_ADAPTER_SERVICE": SERVICE,
        }


async def _serve(port: int, behind: list[int]) -> None:
    turns = itertools.count()

    async def open_one() -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = next(turns)
        for offset in range(len(behind)):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", behind[(first + offset) % len(behind)])
        return None

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = await open_one()
        if found is None:
            writer.close()
            return
        await asyncio.gather(pump(reader, found[1]), pump(found[0], writer))

    server = await asyncio.start_server(connected, "127.0.0.1", port, reuse_address=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), [int(text) for text in sys.argv[2:]]))
