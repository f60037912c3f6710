"""The recorded costs of the points, for `polarity points`."""

import json
from importlib.resources import files
from typing import Any


def recorded_costs() -> dict[str, Any]:
    """The ratios that were measured when this version was made: {"about": {...}, "step": {point: {"median", "low", "high"}}}."""
    costs: dict[str, Any] = json.loads(files("polarity.benchmark").joinpath("point_costs.json").read_text(encoding="utf-8"))
    return costs
