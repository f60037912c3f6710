"""What is said to a user: lines of progress, and errors that name the file, row, column or key and say what to do.

The command line prints them in one line and exits with status 2; the traceback of everything else goes to a file (polarity.cli.net).
"""

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches

Say = Callable[[str], None]
"""Takes a line for people: `print`, or whoever passes lines on."""


def nothing(line: str) -> None:
    """The `Say` of who has nobody to tell."""


_PASSWORD = re.compile(r"(:/{1,2}[^\s/@:]*):(?!\d+(?:/|$))[^\s@]*@")
_KEY = re.compile(r"([?&](?:access_key|account_key|client_secret|password|sas_token|secret|secret_key|sig|token)=)[^&\s]+", re.IGNORECASE)


def redacted(text: str) -> str:
    """`text` with the passwords and keys of addresses in it replaced by three stars."""
    return _KEY.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def first_line(error: object) -> str:
    """The first line of what a library says, 300 characters at most, without its full stop; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


class PolarityError(Exception):
    """Base of every error that the user, not the programmer, can mend; its message repeats no password of an address."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class ConfigError(PolarityError):
    """A setting that is unknown, out of range, or contradicts another."""


class DataError(PolarityError):
    """Input that cannot be read or does not hold what the configuration says."""


class EncoderError(PolarityError):
    """An encoder that does not exist, is damaged, or cannot be reached."""


class RunError(PolarityError):
    """A run folder that cannot be used, or a training that had to stop."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word closest to `word`, or all of them: `did you mean 'lr'?`"""
    words = sorted(known)
    lowered = {w.casefold(): w for w in words}
    close = get_close_matches(word.casefold(), lowered, n=1, cutoff=0.5)
    return f"did you mean {lowered[close[0]]!r}?" if close else "known: " + ", ".join(words)
