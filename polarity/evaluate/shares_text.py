"""Class shares as a plain-text table."""

from collections.abc import Mapping
from typing import Any

from polarity.evaluate.shares import ClassShares

NAMES = {"raw": "counted", "em": "corrected (EM)", "adjusted": "corrected (adjusted counts)"}


def render_shares(shares: Mapping[str, ClassShares]) -> str:
    """For each task a table of classes, the headline's column first, in percent with 95 % intervals, then why and what to mind."""
    lines = [line for task, found in shares.items() for line in _task(task, found)]
    if len({found.headline for found in shares.values()} - {"unknown"}) > 1:
        lines.append("The tasks are corrected in different ways; each says why above.")
    return "\n".join(lines)


def _task(task: str, found: ClassShares) -> list[str]:
    methods = sorted(found.methods, key=lambda name: (name != found.headline, ("em", "adjusted", "raw").index(name)))
    width = max(len(task), *(len(name) for name in found.methods["raw"]))
    lines = ["", f"{task:<{width}}  " + "  ".join(f"{NAMES[name]:<27}" for name in methods).rstrip()]
    for label in found.methods["raw"]:
        cells = "  ".join(f"{_cell(found.methods[name][label]):<27}" for name in methods)
        lines.append(f"{label:<{width}}  {cells}".rstrip())
    if found.headline == "unknown":
        lines.append(f"the shares of {found.rows:,} comments are not known: {found.reason}")
    elif found.headline != "raw":
        lines.append(f"shares of {found.rows:,} comments, corrected by {found.validation_rows:,} validation rows;")
        lines.append(f"the first column is the one to report: {found.reason}")
    return [*lines, *(f"- {note}" for note in found.notes)]


def _cell(entry: Mapping[str, Any]) -> str:
    low, high = entry["ci95"]
    point = "not known" if entry["share"] is None else f"{100 * entry['share']:5.1f} %"
    return f"{point} [{100 * low:.1f}, {100 * high:.1f}]"
