"""Output of the demo: the terminal (or a file), and the picture that `make picture` draws."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live


class Display:
    """Prints on the console, and in the picture when there is one.

    Attributes:
        console: a terminal shows live tables; a file or pipe gets one line for each change.
        picture: records what the picture shows; None without a picture.
    """

    def __init__(self, console: Console, picture: Console | None = None) -> None:
        self.console = console
        self.picture = picture
        self._began = time.monotonic()

    @property
    def is_live(self) -> bool:
        """True when tables are updated in place."""
        return self.console.is_terminal

    def step(self, text: str) -> None:
        """One step of the demo, with the seconds since its start."""
        self.print(f"[bold]{time.monotonic() - self._began:5.1f} s[/]  {text}", soft_wrap=True)

    def print(self, *objects: Any, in_picture: bool = True, **options: Any) -> None:
        self.console.print(*objects, highlight=False, **options)
        if in_picture:
            self.draw(*objects, **{**options, "soft_wrap": False})

    def change(self, text: str) -> None:
        """One line for a change that a live table would show instead."""
        if not self.is_live:
            self.console.print(f"  {text}", soft_wrap=True, highlight=False, markup=False)

    def draw(self, *objects: Any, **options: Any) -> None:
        """Prints in the picture alone."""
        if self.picture is not None:
            self.picture.print(*objects, highlight=False, **options)

    def follow(self, render: Callable[[], RenderableType], advance: Callable[[], bool]) -> None:
        """Calls `advance` until it returns False, and on a terminal shows what `render` returns after each call."""
        live = Live(render(), console=self.console, refresh_per_second=4) if self.is_live else None
        with live or nullcontext():
            going = True
            while going:
                going = advance()
                if live is not None:
                    live.update(render())
