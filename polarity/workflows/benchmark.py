"""`polarity benchmark`: measure all parts in one run, print, and keep the figures."""

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import torch

from polarity.artifacts import disk_errors
from polarity.benchmark.result import render, render_benchmark
from polarity.benchmark.startup import startup, trials
from polarity.benchmark.timing import Contestant, Figures, LimitFigures, Race, RacePart, race, shown, spread
from polarity.benchmark.training import (
    Setting,
    checkpoint_contestants,
    describe_machine,
    point_costs,
    prediction_contestants,
    training_contestants,
)
from polarity.config import Config
from polarity.encoders import require_encoders
from polarity.errors import ConfigError, RunError, Say
from polarity.model.flops import flops_per_row, peak_flops
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


SCHEMA_VERSION = 1
PARTS = ("training", "prediction", "limit", "checkpoint", "points", "oversampling", "loading", "startup", "trials")


def run_benchmark(
    config: Config, *, parts: list[str], rows: int, repeats: int, oversampling_rows: list[int], options: list[str], say: Say
) -> Figures:
    """Measure `parts` (of PARTS); training and prediction take `rows` rows a repeat. Returns plain values for JSON."""
    from polarity.benchmark.rows import compare_loading, compare_oversampling  # the extra is there: `benchmark` has looked

    setting = Setting.of(config, rows)
    about: dict[str, str | int] = {**describe_machine(setting.device), "encoder": config.model.encoder, "precision": setting.precision}
    result: Figures = {"schema_version": SCHEMA_VERSION, "about": {**about, "repeats": repeats, "rows": len(setting.corpus)}}
    if "training" in parts or "limit" in parts:
        trained = _raced("training", training_contestants(setting), repeats, result, say)
        if "limit" in parts:
            result["limit"] = _limit(setting, trained)
    if "prediction" in parts:
        _raced("prediction", prediction_contestants(setting), repeats, result, say)
    if "checkpoint" in parts:
        with tempfile.TemporaryDirectory(prefix="polarity-benchmark-") as folder:
            _raced("checkpoint", checkpoint_contestants(setting, Path(folder)), repeats, result, say, unit="checkpoints")
    if "points" in parts:
        result["points"] = point_costs(config.model.encoder, repeats=repeats, say=say)
    if "oversampling" in parts:
        result["oversampling"] = {
            str(n): compare_oversampling(n, repeats=repeats if n < 5_000_000 else 1, say=say) for n in oversampling_rows
        }
    if "loading" in parts:
        many = min(max(oversampling_rows), 1_000_000)
        result["loading"] = {str(many): compare_loading(many, batches=2000, repeats=repeats, say=say)}
    if "startup" in parts:
        result["startup"] = startup(options, max(1, config.cluster.workers), repeats=repeats, say=say)
    if "trials" in parts:
        result["trials"] = trials(options, repeats=repeats, say=say)
    return result


def _raced(part: RacePart, contestants: dict[str, Contestant], repeats: int, result: Figures, say: Say, unit: str = "rows") -> Race:
    say(f"{part}: {', '.join(contestants)}; {repeats} repeats after one that does not count")
    done = race(contestants, repeats)
    ratios = {peer: done.speed_ratio("polarity", peer, unit) for peer in contestants if peer != "polarity"}
    result[part] = {
        "rates": done.rates(),
        "ratios": ratios,
        "runs": {name: [{**run.units, "seconds": run.seconds} for run in runs] for name, runs in done.runs.items()},
    }
    say("; ".join(f"polarity is {shown(ratio)} times as fast as {peer}" for peer, ratio in ratios.items()))
    return done


def _limit(setting: Setting, trained: Race) -> LimitFigures:
    """Share of the machine's matrix-product rate that training reaches (MFU), counting real tokens and all computed ones."""
    peak = peak_flops(setting.precision, setting.device)
    lengths = setting.corpus.lengths
    real = sum(flops_per_row(setting.encoder, int(n)) for n in lengths)
    runs = trained.runs["polarity"]
    rates = [real * (run.units["rows"] / len(lengths)) / run.seconds for run in runs]
    padded = [rate * run.units["padded_tokens"] / run.units["tokens"] for rate, run in zip(rates, runs, strict=True)]
    return {
        "peak_flops": peak,
        "mfu_real_tokens": spread([rate / peak for rate in rates]),
        "mfu_padded_tokens": spread([rate / peak for rate in padded]),
        "threads": torch.get_num_threads(),
    }
