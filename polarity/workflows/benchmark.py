"""`polarity benchmark`: measure, print, and keep the figures."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from polarity.artifacts import disk_errors
from polarity.benchmark.result import render, render_benchmark
from polarity.benchmark.run import PARTS, run_benchmark
from polarity.benchmark.timing import Figures
from polarity.config import Config
from polarity.encoders import require_encoders
from polarity.errors import ConfigError, RunError
from polarity.train.world import use_threads

_PACKAGES = {"accelerate": "accelerate", "imblearn": "imbalanced-learn", "psutil": "psutil"}
"""{module: package} of the peers, and of what reads memory."""


def benchmark(
    config: Config, options: list[str], *, quick: bool, parts: list[str] | None, repeats: int | None, rows: int | None, out: Path | None,
    say: Callable[[str], None],
) -> Figures:  # fmt: skip
    """Run the parts (all by default; `quick` leaves out what takes minutes) and return the figures; `out` keeps them as JSON, and
    beside it as a page with charts.

    Raises ConfigError for an unknown part, RunError where a package of the extra `benchmark` is not installed.
    """
    lacking = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if lacking:
        raise RunError(f"polarity benchmark needs {', '.join(lacking)}: pip install 'polarity[benchmark]'")
    chosen = parts or (["training", "prediction", "limit"] if quick else list(PARTS))
    for part in chosen:
        if part not in PARTS:
            raise ConfigError(f"--parts: there is no part {part!r}; parts are {', '.join(PARTS)}")
    require_encoders([config])
    use_threads(config.cluster.cpus_per_worker)
    result = run_benchmark(
        config,
        parts=chosen,
        rows=rows or (128 if quick else 512),
        repeats=repeats or (3 if quick else 5),
        oversampling_rows=[10_000, 100_000] if quick else [10_000, 1_000_000, 10_000_000],
        options=options,
        say=say,
    )
    result["about"]["when"] = datetime.now(UTC).isoformat(timespec="seconds")
    say(render(result))
    if out is not None:
        page = out.with_suffix(".html")
        with disk_errors(str(out)):
            out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            page.write_text(render_benchmark(result), encoding="utf-8")
        say(f"figures: {out}, with charts: {page}")
    return result
