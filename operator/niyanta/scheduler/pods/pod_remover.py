"""Delete and release pods that no attempt needs, beside the session's loop; each pod and deed is under way once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from niyanta.observability import log
from niyanta.scheduler.cluster_api import ClusterApi, LeaseLostError, PodView
from niyanta.scheduler.pods.outcome import Teardown

logger = log.get(__name__)

WIDTH = 24
"""Most deeds under way: leaves connections for creates."""


class PodRemover:
    """Idempotent deletes and finalizer removals, repeated until the API server confirms them."""

    def __init__(self, cluster: ClusterApi, *, on_lost: Callable[[], None]) -> None:
        self._cluster = cluster
        self._on_lost = on_lost
        self._slots = asyncio.Semaphore(WIDTH)
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._done: dict[tuple[str, str], None] = {}

    @property
    def in_flight(self) -> int:
        return len(self._under_way)

    def reap(self, teardown: Teardown) -> None:
        """Start what a teardown asks for and isn't under way (or done, for the reflector may lag) already."""
        for pod in teardown.release:
            self._start("release", pod, self._cluster.release_pod)
        for pod in teardown.delete:
            self._start("delete", pod, self._cluster.delete_pod)
        for pod in teardown.force:
            self._start("force", pod, lambda p: self._cluster.delete_pod(p, force=True))

    async def close(self) -> None:
        """Stop at once."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, deed: str, pod: PodView, act: Callable[[PodView], Awaitable[None]]) -> None:
        key = (pod.uid, deed)
        if key in self._under_way or key in self._done:
            return
        task = asyncio.create_task(self._run(key, pod, act), name=f"{deed} {pod.name}")
        self._under_way[key] = task
        task.add_done_callback(lambda _: self._under_way.pop(key, None))

    async def _run(self, key: tuple[str, str], pod: PodView, act: Callable[[PodView], Awaitable[None]]) -> None:
        delay = 0.2
        while True:
            try:
                async with self._slots:
                    await act(pod)
            except LeaseLostError:
                self._on_lost()
                return
            except Exception as error:  # whatever the cause, the pod must not be forgotten
                logger.warning("pod is reaped again", pod=pod.name, deed=key[1], error=str(error))
            else:
                self._done[key] = None
                while len(self._done) > 10_000:
                    self._done.pop(next(iter(self._done)))
                return
            await asyncio.sleep(delay * (0.5 + random.random()))  # noqa: S311 - jitter
            delay = min(delay * 2, 5.0)
