"""The benchmark's result as tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from polarity import tables


def render(result: Mapping[str, Any]) -> str:
    """What `run_benchmark` returned, as text for the terminal."""
    console = tables.console()
    about = result["about"]
    console.print(
        f"{about['device']}, {about['threads']} thread(s), {about['precision']}, encoder {about['encoder']}, {about['repeats']} repeats"
    )
    for part, title in (("training", "Training"), ("prediction", "Prediction")):
        if part in result:
            console.print(_speeds(title, result[part]))
    if "limit" in result:
        limit = result["limit"]
        real, padded = (_spread(limit[f"mfu_{kind}_tokens"], percent=True) for kind in ("real", "padded"))
        console.print(f"Matrix products of this machine: {limit['peak_flops'] / 1e9:,.0f} GFLOP/s in {about['precision']}.")
        console.print(f"Training uses {real} of that on real tokens, {padded} with padding.")
    if "checkpoint" in result:
        console.print(_checkpoint(result["checkpoint"]))
    if "points" in result:
        console.print(_points(result["points"]))
    if "oversampling" in result:
        console.print(_oversampling("Oversampling, file to file", result["oversampling"]))
    if "loading" in result:
        console.print(_oversampling("Loading: batches of 32 in random order, from a file of so many rows", result["loading"]))
    if "startup" in result:
        console.print(_startup(result["startup"]))
    if "trials" in result:
        first, after = (_spread(result["trials"][name]) for name in ("first", "next"))
        console.print(f"A trial of an ablation takes {after} s that are not training; the first one, which starts its process, {first} s.")
    return tables.text_of(console)


def _speeds(title: str, part: Mapping[str, Any]) -> Table:
    table = Table(title=f"{title}: medians [least, greatest]; a ratio above 1 says that polarity is faster", title_justify="left")
    for name in ("", "rows/s", "tokens/s", "padding", "polarity is x times as fast"):
        table.add_column(name)
    for name, rates in part["rates"].items():
        padding = 1 - rates["tokens"]["median"] / rates["padded_tokens"]["median"]
        ratio = part["ratios"].get(name)
        table.add_row(name, _spread(rates["rows"]), f"{rates['tokens']['median']:,.0f}", f"{padding:.1%}", _spread(ratio) if ratio else "")
    return table


def _checkpoint(part: Mapping[str, Any]) -> Table:
    table = Table("", "a second", "MB/s", "polarity is x times as fast", title="Checkpoints", title_justify="left")
    for name, rates in part["rates"].items():
        ratio = part["ratios"].get(name)
        table.add_row(name, _spread(rates["checkpoints"]), f"{rates['mb']['median']:,.0f}", _spread(ratio) if ratio else "")
    return table


def _points(part: Mapping[str, Any]) -> Table:
    table = Table(title="Time of a step for each row, as a ratio to the baseline's", title_justify="left")
    table.add_column("point")
    table.add_column("ratio")
    for name, spread in part["step"].items():
        table.add_row(name, _spread(spread))
    return table


def _oversampling(title: str, part: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("rows", "method", "repeats", "rows/s", "peak MB", "polarity is x times as fast"):
        table.add_column(name)
    for rows, methods in part.items():
        for method, entry in methods.items():
            if "failed" in entry:
                table.add_row(f"{int(rows):,}", method, "", entry["failed"])
                continue
            speed, peak = entry["rows_per_s"]["median"], entry["peak_mb"]["median"]
            ratio = _spread(entry["ratio"]) if "ratio" in entry else ""
            table.add_row(f"{int(rows):,}", method, str(entry["repeats"]), f"{speed:,.0f}", f"{peak:,.0f}", ratio)
        table.add_section()
    return table


def _startup(part: Mapping[str, Any]) -> Table:
    table = Table("", "seconds", title="Cold start to the first step", title_justify="left")
    for name, spread in part["polarity"].items():
        table.add_row(name, _spread(spread))
    table.add_row("bare TorchTrainer, to an empty loop", _spread(part["bare TorchTrainer"]))
    table.add_row("ratio", _spread(part["ratio"]))
    return table


def _spread(value: Mapping[str, float], *, percent: bool = False) -> str:
    form = "{:.0%}" if percent else "{:.2f}"
    return f"{form.format(value['median'])} [{form.format(value['low'])}, {form.format(value['high'])}]"
