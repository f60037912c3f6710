"""The benchmark's result: tables for a terminal, and a page."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from rich.table import Table

from polarity import tables
from polarity.benchmark.timing import Figures, Methods, RaceFigures, RacePart, Spread, StartupFigures, shown
from polarity.report.charts import Bar, Mark, bars
from polarity.report.page import PageSection, details, render_page

SPEEDS: tuple[RacePart, ...] = ("training", "prediction")
_RACES: dict[RacePart, str] = {"training": "Training", "prediction": "Prediction", "checkpoint": "Checkpoints"}


def render(result: Figures) -> str:
    """What `run_benchmark` returned, as text for the terminal."""
    console = tables.console()
    about = result["about"]
    console.print(
        f"{about['device']}, {about['threads']} thread(s), {about['precision']}, encoder {about['encoder']}, {about['repeats']} repeats"
    )
    for part in SPEEDS:
        if part in result:
            console.print(_speeds(_RACES[part], result[part]))
    if "limit" in result:
        limit = result["limit"]
        real, padded = (shown(share, percent=True) for share in (limit["mfu_real_tokens"], limit["mfu_padded_tokens"]))
        console.print(f"Matrix products of this machine: {limit['peak_flops'] / 1e9:,.0f} GFLOP/s in {about['precision']}.")
        console.print(f"Training uses {real} of that on real tokens, {padded} with padding.")
    if "checkpoint" in result:
        console.print(_checkpoint(result["checkpoint"]))
    if "points" in result:
        console.print(_spreads("Time of a step for each row, as a ratio to the baseline's", ("point", "ratio"), result["points"]["step"]))
    if "oversampling" in result:
        console.print(_oversampling("Oversampling, file to file", result["oversampling"]))
    if "loading" in result:
        console.print(_oversampling("Loading: batches of 32 in random order, from a file of so many rows", result["loading"]))
    if "startup" in result:
        starts = {**_named_starts(result["startup"]), "ratio": result["startup"]["ratio"]}
        console.print(_spreads("Cold start to the first step", ("", "seconds"), starts))
    if "trials" in result:
        first, after = (shown(result["trials"][name]) for name in ("first", "next"))
        console.print(f"A trial of an ablation takes {after} s that are not training; the first one, which starts its process, {first} s.")
    return tables.text_of(console)


def _speeds(title: str, part: RaceFigures) -> Table:
    title = f"{title}: medians [least, greatest]; a ratio above 1 says that polarity is faster"
    table = Table("", "rows/s", "tokens/s", "padding", "polarity is x times as fast", title=title, title_justify="left")
    for name, rates in part["rates"].items():
        padding = 1 - rates["tokens"]["median"] / rates["padded_tokens"]["median"]
        ratio = part["ratios"].get(name)
        table.add_row(name, shown(rates["rows"]), f"{rates['tokens']['median']:,.0f}", f"{padding:.1%}", shown(ratio) if ratio else "")
    return table


def _checkpoint(part: RaceFigures) -> Table:
    table = Table("", "a second", "MB/s", "polarity is x times as fast", title="Checkpoints", title_justify="left")
    for name, rates in part["rates"].items():
        ratio = part["ratios"].get(name)
        table.add_row(name, shown(rates["checkpoints"]), f"{rates['mb']['median']:,.0f}", shown(ratio) if ratio else "")
    return table


def _spreads(title: str, columns: tuple[str, str], named: Mapping[str, Spread]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for name, found in named.items():
        table.add_row(name, shown(found))
    return table


def _oversampling(title: str, part: Mapping[str, Methods]) -> Table:
    columns = ("rows", "method", "repeats", "rows/s", "peak MB", "polarity is x times as fast")
    table = Table(*columns, title=title, title_justify="left")
    for rows, methods in part.items():
        for method, entry in methods.items():
            if "failed" in entry:
                table.add_row(f"{int(rows):,}", method, "", entry["failed"])
                continue
            speed, peak = entry["rows_per_s"]["median"], entry["peak_mb"]["median"]
            ratio = shown(entry["ratio"]) if "ratio" in entry else ""
            table.add_row(f"{int(rows):,}", method, str(entry["repeats"]), f"{speed:,.0f}", f"{peak:,.0f}", ratio)
        table.add_section()
    return table


def _named_starts(part: StartupFigures) -> dict[str, Spread]:
    return {**part["polarity"], "bare TorchTrainer, to an empty loop": part["bare TorchTrainer"]}


_SPREAD = "least to greatest of the repeats"


def render_benchmark(result: Figures) -> str:
    """What `run_benchmark` returned as a self-contained page: ratios to the peers, the machine's limit, costs, growth, start-up."""
    about = result["about"]
    sections = []
    for part, title in _RACES.items():
        if part in result:
            even = (Mark(1.0, "as fast as polarity", "baseline"),)
            chart = _chart(_bars(result[part]["ratios"], marks=even), f"{title}: how many times as fast polarity is as each peer")
            sections.append(PageSection(part, title, chart, "How many times as fast polarity is, from the same repeats."))
    if "limit" in result:
        limit = result["limit"]
        rows = _bars({"real tokens": limit["mfu_real_tokens"], "with padding": limit["mfu_padded_tokens"]})
        lead = f"Share of the {limit['peak_flops'] / 1e9:,.0f} GFLOP/s that a matrix product reaches on this machine (MFU)."
        sections.append(PageSection("limit", "Share of the limit", bars(rows, label="model FLOPs utilisation", whisker=_SPREAD), lead))
    if "points" in result:
        costs = {"all ten" if name == "all" else f"point {name}": cost for name, cost in result["points"]["step"].items()}
        sections.append(PageSection("points", "Cost of the points", _chart(_bars(costs), "time of a step"), "Time a row, baseline = 1."))
    if "oversampling" in result:
        sections.append(_oversampling_section("oversampling", "Oversampling", result["oversampling"]))
    if "loading" in result:
        sections.append(_oversampling_section("loading", "Loading", result["loading"]))
    if "startup" in result:
        chart = _chart(_bars(_named_starts(result["startup"])), "seconds")
        sections.append(PageSection("startup", "Cold start to the first step", chart, "Seconds."))
    whole = Markup("<pre>{}</pre>").format(render(result))
    sections.append(PageSection("tables", "All figures", details("As the terminal shows them", whole, opened=True)))
    facts = [(name, str(about[name])) for name in ("device", "threads", "precision", "encoder", "rows", "repeats", "when") if name in about]
    return render_page(title="Speed", kind="polarity benchmark", headline=_headline(result), sections=sections, facts=facts)


def _headline(result: Figures) -> str:
    if "training" not in result:
        return "Measured on this machine, contestants taking turns."
    ratios = result["training"]["ratios"]
    return "Training is " + ", ".join(f"{r['median']:.2f} times as fast as {peer}" for peer, r in ratios.items()) + "."


def _bars(named: Mapping[str, Spread], marks: tuple[Mark, ...] = ()) -> list[Bar]:
    return [Bar(name, found["median"], found["low"], found["high"], marks=marks) for name, found in named.items()]


def _oversampling_section(name: str, title: str, found: Mapping[str, Methods]) -> PageSection:
    rows: list[Bar | str] = []
    for count, methods in found.items():
        rows.append(f"{int(count):,} rows")
        rows += [Bar(method, e["rows_per_s"]["median"] / 1e6, e["rows_per_s"]["low"] / 1e6, e["rows_per_s"]["high"] / 1e6,
                     note=f"{e['peak_mb']['median']:,.0f} MB") for method, e in methods.items() if "failed" not in e]  # fmt: skip
        rows += [f"{method}: {e['failed']}" for method, e in methods.items() if "failed" in e]
    return PageSection(name, title, _chart(rows, "million rows a second"), "Million rows a second, and peak memory.")


def _chart(rows: list[Any], label: str) -> Markup:
    most = max(bar.high if bar.high is not None else bar.value for bar in rows if isinstance(bar, Bar))
    return bars(rows, low=0.0, high=1.05 * max(most, 1e-9), label=label, number=_plain, axis=_plain, whisker=_SPREAD)


def _plain(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"
