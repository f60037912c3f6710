"""The benchmark's result as one HTML page with charts."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from polarity.benchmark.result import render
from polarity.report.charts import Bar, Mark, bars
from polarity.report.page import Section, details, render_page

_SPREAD = "least to greatest of the repeats"


def render_benchmark(result: Mapping[str, Any]) -> str:
    """What `run_benchmark` returned as a self-contained page: ratios to the peers, the machine's limit, costs, growth, start-up."""
    about = result["about"]
    sections = [
        *(_ratios(part, title, result[part]) for part, title in _RACES.items() if part in result),
        *([_limit(result["limit"])] if "limit" in result else []),
        *([_points(result["points"])] if "points" in result else []),
        *([_oversampling("oversampling", "Oversampling", result["oversampling"])] if "oversampling" in result else []),
        *([_oversampling("loading", "Loading", result["loading"])] if "loading" in result else []),
        *([_startup(result["startup"])] if "startup" in result else []),
        Section(
            "tables", "All figures", details("As the terminal shows them", Markup("<pre>{}</pre>").format(render(result)), opened=True)
        ),
    ]
    facts = [(name, str(about[name])) for name in ("device", "threads", "precision", "encoder", "rows", "repeats", "when") if name in about]
    return render_page(title="Speed", kind="polarity benchmark", headline=_headline(result), sections=sections, facts=facts)


_RACES = {"training": "Training", "prediction": "Prediction", "checkpoint": "Checkpoints"}


def _headline(result: Mapping[str, Any]) -> str:
    if "training" not in result:
        return "Measured on this machine, contestants taking turns."
    ratios = result["training"]["ratios"]
    return "Training is " + ", ".join(f"{r['median']:.2f} times as fast as {peer}" for peer, r in ratios.items()) + "."


def _ratios(part: str, title: str, found: Mapping[str, Any]) -> Section:
    even = (Mark(1.0, "as fast as polarity", "baseline"),)
    rows = [Bar(peer, r["median"], r["low"], r["high"], marks=even) for peer, r in found["ratios"].items()]
    chart = _chart(rows, f"{title}: how many times as fast polarity is as each peer")
    return Section(part, title, chart, "How many times as fast polarity is, from the same repeats.")


def _limit(limit: Mapping[str, Any]) -> Section:
    names = {"mfu_real_tokens": "real tokens", "mfu_padded_tokens": "with padding"}
    rows = [Bar(words, limit[name]["median"], limit[name]["low"], limit[name]["high"]) for name, words in names.items()]
    lead = f"Share of the {limit['peak_flops'] / 1e9:,.0f} GFLOP/s that a matrix product reaches on this machine (MFU)."
    return Section("limit", "Share of the limit", bars(rows, label="model FLOPs utilisation", whisker=_SPREAD), lead)


def _points(found: Mapping[str, Any]) -> Section:
    names = {name: "all ten" if name == "all" else f"point {name}" for name in found["step"]}
    rows = [Bar(names[name], s["median"], s["low"], s["high"]) for name, s in found["step"].items()]
    return Section("points", "Cost of the points", _chart(rows, "time of a step"), "Time a row, baseline = 1.")


def _oversampling(name: str, title: str, found: Mapping[str, Any]) -> Section:
    rows: list[Bar | str] = []
    for count, methods in found.items():
        rows.append(f"{int(count):,} rows")
        rows += [Bar(method, e["rows_per_s"]["median"] / 1e6, e["rows_per_s"]["low"] / 1e6, e["rows_per_s"]["high"] / 1e6,
                     note=f"{e['peak_mb']['median']:,.0f} MB") for method, e in methods.items() if "failed" not in e]  # fmt: skip
        rows += [f"{method}: {e['failed']}" for method, e in methods.items() if "failed" in e]
    return Section(name, title, _chart(rows, "million rows a second"), "Million rows a second, and peak memory.")


def _startup(found: Mapping[str, Any]) -> Section:
    named = {**found["polarity"], "bare TorchTrainer, to an empty loop": found["bare TorchTrainer"]}
    rows = [Bar(name, s["median"], s["low"], s["high"]) for name, s in named.items()]
    return Section("startup", "Cold start to the first step", _chart(rows, "seconds"), "Seconds.")


def _chart(rows: list[Any], label: str) -> Markup:
    most = max(bar.high if bar.high is not None else bar.value for bar in rows if isinstance(bar, Bar))
    return bars(rows, low=0.0, high=1.05 * max(most, 1e-9), label=label, number=_plain, axis=_plain, whisker=_SPREAD)


def _plain(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"
