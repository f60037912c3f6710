"""The recorded costs of the points, for `polarity points`."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from polarity import tables
from polarity.config_checks import leaves
from polarity.resolve import Resolved, resolve
from polarity.strategy import CLAIMS_NOTE, POINTS


def recorded_costs() -> dict[str, Any]:
    """The ratios that were measured when this version was made: {"about": {...}, "step": {point: {"median", "low", "high"}}}."""
    costs: dict[str, Any] = json.loads(files("polarity.benchmark").joinpath("point_costs.json").read_text(encoding="utf-8"))
    return costs


def changed_lines(resolved: Resolved, preset: str | None) -> str:
    """One line a setting that differs from the preset: key, value, what it was, and its source."""
    before, after = leaves(resolve(preset).config.model_dump()), leaves(resolved.config.model_dump())
    keys = [key for key in after if key not in before or before[key] != after[key]]
    gone = [f"{key}: removed\n" for key in before if key not in after and not any(k.startswith(key) for k in after)]
    lines = [f"{key}: {after[key]}  # was {before.get(key, 'not set')}; {resolved.sources.get(key, 'default')}\n" for key in keys]
    return "".join(lines + gone)


def points_table() -> str:
    """The ten points: what each sets, its source, the plan's claim, and the time of its step as a ratio to the baseline's."""
    costs, base = recorded_costs(), resolve().config
    lines = ["The plan's ten points; polarity train --points 1,6 switches some of them on", ""]
    before = leaves(base.model_dump())
    for number, point in POINTS.items():
        after = leaves(point.apply(base).model_dump())
        lines.append(f"{number:>2}  {point.title} (tier {point.tier})")
        lines += _noted("claim", f"+{point.claim[0]:g} to +{point.claim[1]:g} points")
        lines += _noted("a step", _cost(costs["step"][str(number)]))
        lines += _noted("source", point.source)
        lines += [line for key in after if before.get(key) != after[key] for line in _noted("sets", f"{key} = {after[key]}")]
        lines.append("")
    about = costs["about"]
    where = f"on {about['when']} on {about['device']} with {about['encoder']} in {about['precision']}, {about['rows']}"
    note = (
        f"Steps: time for each row against the baseline's, median [least, greatest] of {about['repeats']} interleaved repeats, "
        f"measured {where}; all ten together {_cost(costs['step']['all'])}. The baseline has R-Drop already, so its step is two passes. "
        "Points 2 and 3 cost rows and epochs, not time a step: on the plan's data an epoch has 1.5 times as many rows, and there are "
        "twice as many epochs. Measure here: polarity benchmark --parts points"
    )
    return "\n".join([*lines, *tables.wrapped(CLAIMS_NOTE), *tables.wrapped(note)])


def _noted(what: str, text: str) -> list[str]:
    return tables.wrapped(text, first=f"    {what:<8}", later=" " * 12)


def _cost(spread: Mapping[str, float]) -> str:
    return f"x{spread['median']:.2f} [{spread['low']:.2f}, {spread['high']:.2f}]"
