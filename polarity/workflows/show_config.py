"""`polarity config --changes` and `polarity points`."""

import io

from rich.console import Console
from rich.table import Table

from polarity.config_checks import leaves
from polarity.resolve import Resolved, resolve
from polarity.strategy import CLAIMS_NOTE, POINTS


def changed_lines(resolved: Resolved, preset: str | None) -> str:
    """One line a setting that differs from the preset: key, value, what it was, and its source."""
    before, after = leaves(resolve(preset).config.model_dump()), leaves(resolved.config.model_dump())
    keys = [key for key in after if key not in before or before[key] != after[key]]
    gone = [f"{key}: removed\n" for key in before if key not in after and not any(k.startswith(key) for k in after)]
    lines = [f"{key}: {after[key]}  # was {before.get(key, 'not set')}; {resolved.sources.get(key, 'default')}\n" for key in keys]
    return "".join(lines + gone)


def points_table() -> str:
    """The ten points: what each sets, its source, and the plan's claim."""
    table = Table("point", "tier", "name", "sets", "source", "claim", title="The plan's ten points")
    base = resolve().config
    for number, point in POINTS.items():
        before, after = leaves(base.model_dump()), leaves(point.apply(base).model_dump())
        sets = "\n".join(f"{key} = {after[key]}" for key in after if before.get(key) != after[key])
        table.add_row(str(number), str(point.tier), point.title, sets, point.source, f"+{point.claim[0]:g} to +{point.claim[1]:g}")
    out = io.StringIO()
    Console(file=out, width=150).print(table)
    return f"{out.getvalue()}{CLAIMS_NOTE}\n"
