"""What stands around the command: streams that can print every character, progress, and a last net for errors that are not ours."""

import codecs
import platform
import re
import sys
import tempfile
import time
import traceback
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from polarity import tables
from polarity.errors import PolarityError, redacted

UNEXPECTED = 70
"""Exit status of a fault in polarity or a library (EX_SOFTWARE of sysexits.h)."""
_PLAIN = {
    "\u2026": "...",
    "\u2013": "-",
    "\u2014": "-",
    "\u00b7": ".",
    "\u2022": "*",
    "\u00b1": "+-",
    "\u00d7": "x",
    "\u2192": "->",
    "\u2265": ">=",
    "\u2264": "<=",
}


def plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler of streams: lines and bars drawn in ASCII, every other character that cannot be printed as its escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(letter: str) -> str:
    if letter in _PLAIN:
        return _PLAIN[letter]
    name = unicodedata.name(letter, "")
    if name.startswith("BOX DRAWINGS"):
        return "+" if " AND " in name else "|" if "VERTICAL" in name else "-"
    if "\u2580" <= letter <= "\u259f" or "\u2800" <= letter <= "\u28ff":
        return "#"
    return letter.encode("unicode_escape").decode("ascii")


def print_anything() -> None:
    """Let stdout and stderr print what their encoding lacks in plain letters instead of raising (LANG=C, PYTHONIOENCODING=ascii)."""
    codecs.register_error("polarity.plain", plain)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and getattr(stream, "errors", "") in ("strict", "surrogateescape", "backslashreplace"):
            reconfigure(errors="polarity.plain")


_STEP = re.compile(r"(epoch \d+/\d+)  step (\d+)/(\d+)  (loss \S+) .*?(\S+ rows/s) .*  ((?:\S+ )?left\b.*)")
"""A training's line of progress (`train/progress.py`)."""
_bar: Progress | None = None


def say(line: str) -> None:
    """Print a line of progress or result; on a terminal a training's steps move a bar at the bottom instead."""
    if not sys.stdout.isatty():
        typer.echo(line)
        return
    found = _STEP.match(line)
    if found:
        _move_bar(*found.groups())
    elif _bar is not None and line.startswith("epoch "):
        _bar.console.print(folded(line), markup=False, highlight=False, soft_wrap=True)
    else:
        end_bar()
        typer.echo(folded(line))


def folded(text: str) -> str:
    """A text for a terminal: lines that are too long go on below, indented, at a word; commands stay whole, for they are copied."""
    lines = []
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        fits = len(line) <= tables.width() or line.lstrip().startswith("polarity ")
        lines += [line] if fits else tables.wrapped(line.strip(), first=" " * indent, later=" " * (indent + 2))
    return "\n".join(lines)


def _move_bar(epoch: str, step: str, steps: str, *notes: str) -> None:
    global _bar
    if _bar is None:
        columns = (SpinnerColumn("line"), TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[notes]}"))
        _bar = Progress(*columns, console=Console(file=sys.stdout, highlight=False), transient=True, expand=True)
        _bar.add_task("", total=None, notes="")
        _bar.start()
    _bar.update(_bar.task_ids[0], description=epoch, completed=int(step), total=int(steps), notes=f"{step}/{steps}  {'  '.join(notes)}")


def end_bar() -> None:
    """Take the bar away, before anything else is printed."""
    global _bar
    if _bar is not None:
        _bar.stop()
        _bar = None


@contextmanager
def stopped_by_hand(place: str, begun: str, how: str) -> Iterator[None]:
    """Ctrl-C ends what writes the folder `place` with how to go on, if it has begun: if the file `begun` is there."""
    try:
        yield
    except KeyboardInterrupt:
        from polarity.artifacts import RunFolder  # slow to import

        end_bar()
        if RunFolder.at(place).exists(begun):
            say(f"stopped; {how.format(place)}")
        raise


def ours(error: BaseException) -> PolarityError | None:
    """The PolarityError that an error carries within, such as one that a Ray task raised."""
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        if isinstance(inner, PolarityError):
            return inner
        seen.add(id(inner))
        inner = getattr(inner, "cause", None) or inner.__cause__
    return None


def unexpected(error: BaseException) -> str:
    """One line for an error that is not ours; the whole traceback goes into a file that it names."""
    what = " ".join(str(error).split())[:300]
    line = f"{type(error).__name__}{': ' + what if what else ''}"
    told = redacted("".join(traceback.format_exception(error)))
    heading = [f"polarity {version('polarity')}, Python {platform.python_version()}, {platform.platform()}", " ".join(sys.argv)]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"polarity-error-{time.strftime('%Y%m%d-%H%M%S')}-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(redacted("\n".join(heading)) + "\n\n" + told)
    except OSError:  # no room or no right: the screen is the only place left
        return f"{told}error: {redacted(line)}: a fault of polarity or of a library; please report it with the lines above"
    return f"error: {redacted(line)}: a fault of polarity or of a library. The traceback is in {file.name}: please report it with that file"


def exit_status(error: Exception) -> int:
    """Tell an error on stderr; returns the exit status: 2 for what the user can mend, 70 for what is not ours."""
    end_bar()
    known = ours(error)
    if known is not None:
        told = f"error: {known}"
        typer.echo(folded(told) if sys.stderr.isatty() else told, err=True)
        return 2
    typer.echo(unexpected(error), err=True)
    return UNEXPECTED
