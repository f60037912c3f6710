"""When two spellings are the same label, the same class or the same column: one canonical form for every format of file.

The same value reaches us as 1 (an integer of Parquet), 1.0 (pandas writes so as soon as one label is missing), "1" and "1.0" (CSV); as
`négatif` composed or decomposed, with a zero-width space that a web page left, or in Turkish capitals. What a reader sees as one word
is one word here.
"""

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal

MISSING_WORDS = (
    "nan",
    "none",
    "null",
    "na",
    "n/a",
    "#n/a",
    "#n/a n/a",
    "#na",
    "<na>",
    "-nan",
    "nat",
    "1.#ind",
    "-1.#ind",
    "1.#qnan",
    "-1.#qnan",
)
"""Texts that stand for a missing value: those that pandas writes and reads so (`read_csv`, `na_values`), and NaT."""
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d{1,3})?")
_MOST_DIGITS = 60
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\ufe00-\ufe0f\uffa0]")
"""Fillers and variation selectors, which no class of Unicode sets apart."""


def canonical(text: str) -> str:
    """The form under which spellings of one word are equal.

    Compatibility forms are unified (NFKC), letters that leave no mark are dropped (zero-width characters, soft hyphens, direction and
    byte order marks), white space is trimmed and runs of it count as one space, case is folded by Unicode's rules and not by a
    locale's (the dotted and the dotless i of Turkish fold to i), and plain numbers are written in one way: 1.0 and +1 as 1, 0.50 as 0.5.
    Numbers with leading zeros stay as they are, for they are codes.
    """
    seen = "".join(letter for letter in unicodedata.normalize("NFKC", text) if unicodedata.category(letter) != "Cf")
    words = " ".join(_UNSEEN.sub("", seen).split())
    folded = words.replace("\u0130", "i").replace("\u0131", "i").casefold()
    folded = unicodedata.normalize("NFKC", folded).replace("i\u0307", "i")
    return _number(folded) if _NUMBER.fullmatch(folded) else folded


def _number(text: str) -> str:
    """A plain number in its shortest form without an exponent; as it is where that form would be very long."""
    value = Decimal(text)
    if len(text) > _MOST_DIGITS or abs(value.adjusted()) > _MOST_DIGITS:
        return text
    plain = format(value, "f")
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return "0" if plain in ("-0", "") else plain.removeprefix("+")


def lookup(names: Iterable[str]) -> dict[str, str]:
    """Canonical form -> name, for names whose canonical forms differ. Raises ValueError naming two that are the same."""
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(canonical(name), name)
        if other != name:
            raise ValueError(f"{other!r} and {name!r} are the same but for spelling")
    return found


def match(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is `name`, or else the only one that is the same but for spelling; None where there is none, or several."""
    known = list(names)
    if name in known:
        return name
    alike = [other for other in known if canonical(other) == canonical(name)]
    return alike[0] if len(alike) == 1 else None
