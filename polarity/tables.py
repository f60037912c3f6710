"""The one home of text on a terminal: how wide it is, and tables as plain text of that width."""

import shutil
import textwrap
from collections.abc import Iterable
from io import StringIO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

LEAST = 80
"""Columns that every table is made for; a narrower terminal folds lines itself."""
IN_A_FILE = 110
"""Columns where there is no terminal, as in a log."""


def width(in_a_file: int = IN_A_FILE) -> int:
    """Columns to print in: those of the terminal (or COLUMNS), never fewer than LEAST; `in_a_file` where there is no terminal."""
    return max(LEAST, shutil.get_terminal_size((in_a_file, 24)).columns)


def console(columns: int | None = None, *, colour: bool = False) -> Console:
    """A console that prints into a string for `text_of`; what stands in a file is never taken for markup."""
    return Console(
        file=StringIO(), width=columns or width(), force_terminal=colour, no_color=not colour, highlight=False, markup=False, emoji=False,
        legacy_windows=False,
    )  # fmt: skip


def text_of(shown: Console) -> str:
    """What was printed on a `console`, without spaces at the ends of its lines."""
    assert isinstance(shown.file, StringIO)
    return "\n".join(line.rstrip() for line in shown.file.getvalue().splitlines()) + "\n"


def printed(*parts: RenderableType) -> str:
    """Tables and lines below each other, as text. A line is wrapped at words."""
    shown = console()
    for part in parts:
        shown.print(part)
    return text_of(shown)


def table(*columns: str | Text, title: str = "", left: Iterable[str] = (), gap: int = 2) -> Table:
    """An empty table without frames: titles and the first column to the left, the others to the right but those that `left` names."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, gap, 0, 0), title_justify="left")
    if title:
        made.title = Text(title, "bold")
    for index, name in enumerate(columns):
        made.add_column(name, justify="left" if index == 0 or str(name) in set(left) else "right", overflow="fold")
    return made


def wrapped(text: str, *, first: str = "", later: str = "") -> list[str]:
    """A sentence as lines of the terminal's width (110 at most), which begin with `first` and `later`; long words stay whole."""
    return textwrap.wrap(
        text, min(width(), IN_A_FILE), initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )
