"""`make picture`: what the demo printed, as an SVG file that loads nothing from elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

WIDTH = 116
"""Columns. A page of GitHub shows the picture about 900 pixels wide, so more columns would be too small to read."""
ASPECT_RATIO = 0.602
"""Width of a character over the font's size, as in Menlo and DejaVu Sans Mono."""

BLACK, RED, GREEN, YELLOW = (72, 79, 88), (255, 123, 114), (63, 185, 80), (227, 179, 65)
BLUE, MAGENTA, CYAN, WHITE = (88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196)
THEME = TerminalTheme((13, 17, 23), (201, 209, 217), [BLACK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, WHITE])

FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
  <style>
    .{unique_id}-matrix {{
      font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
      font-size: {char_height}px;
      line-height: {line_height}px;
    }}
    .{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
    {styles}
  </style>
  <defs>
    <clipPath id="{unique_id}-clip-terminal">
      <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
    </clipPath>
    {lines}
  </defs>
  {chrome}
  <g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
    {backgrounds}
    <g class="{unique_id}-matrix" xml:space="preserve">
    {matrix}
    </g>
  </g>
</svg>
"""
"""Rich's own format refers to a font on another host."""


def recorder() -> Console:
    """A console that prints nowhere and remembers everything."""
    return Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor", emoji=False
    )


def save(recorded: Console, path: Path) -> None:
    svg = recorded.export_svg(
        title="make demo", theme=THEME, code_format=FORMAT, font_aspect_ratio=ASPECT_RATIO, unique_id="demo"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
