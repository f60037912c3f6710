"""`polarity config --changes` and `polarity points`."""

import io
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from polarity.benchmark.costs import recorded_costs
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
    """The ten points: what each sets, its source, the plan's claim, and the time of its step as a ratio to the baseline's."""
    costs = recorded_costs()
    table = Table(title="The plan's ten points")
    for column in ("point", "tier", "name", "sets", "source", "claim", "step costs"):
        table.add_column(column, overflow="fold")
    base = resolve().config
    for number, point in POINTS.items():
        before, after = leaves(base.model_dump()), leaves(point.apply(base).model_dump())
        sets = "\n".join(f"{key} = {after[key]}" for key in after if before.get(key) != after[key])
        claim = f"+{point.claim[0]:g} to +{point.claim[1]:g}"
        table.add_row(str(number), str(point.tier), point.title, sets, point.source, claim, _cost(costs["step"][str(number)]))
    out = io.StringIO()
    Console(file=out, width=150).print(table)
    about = costs["about"]
    where = f"on {about['when']} on {about['device']} with {about['encoder']} in {about['precision']}, {about['rows']}"
    note = (
        f"Step costs: time for each row against the baseline's, median [least, greatest] of {about['repeats']} interleaved repeats, "
        f"measured {where}; all ten together {_cost(costs['step']['all'])}. The baseline has R-Drop already, so its step is two passes. "
        "Points 2 and 3 cost rows and epochs, not time a step: on the plan's data an epoch has 1.5 times as many rows, and there are "
        "twice as many epochs. Measure here: polarity benchmark --parts points"
    )
    return f"{out.getvalue()}{CLAIMS_NOTE}\n{note}\n"


def _cost(spread: Mapping[str, float]) -> str:
    return f"x{spread['median']:.2f} [{spread['low']:.2f}, {spread['high']:.2f}]"
