"""The ledger in words: its warnings, and the table that is printed before training."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from polarity import tables

if TYPE_CHECKING:
    from polarity.data.ledger import ClassEntry, Ledger, StratumEntry

_NOTICED = 1.1
"""A class whose weight or share is lifted by less than this is not called corrected."""
_STRATA_SHOWN = 24


def warnings_of(ledger: "Ledger") -> list[str]:
    """Where the same imbalance is corrected more than once, and where a rarer class ends above a more frequent one: one sentence each."""
    found: list[str] = []
    for task, entries in ledger.tasks.items():
        found += _corrected_twice(ledger, task, entries)
        found += _adjusted_twice(ledger, task, entries)
        found += _overtaken(ledger, task, entries)
    return found


def _lift(after: float, before: float) -> float:
    return after / before if before > 0 else 1.0


def _corrected_twice(ledger: "Ledger", task: str, entries: list["ClassEntry"]) -> Iterator[str]:
    if ledger.basis != "raw" or not ledger.settings["strength"]:
        return
    gamma = ledger.focal_gamma[task]
    for entry in entries:
        by_rows, by_weight = _lift(entry.sampled_share, entry.share), _lift(entry.effective_prior, entry.sampled_share)
        if by_rows < _NOTICED or by_weight < _NOTICED:
            continue
        even = 1 / len(entries)
        yield (
            f"{task}.{entry.name}: {entry.share:.1%} of the rows, {entry.sampled_share:.1%} of the sampled rows, "
            f"{entry.effective_prior:.1%} of the loss: corrected twice. Oversampling lifts it x{by_rows:.1f}, "
            f"and class weights that count the rows before resampling lift it x{by_weight:.1f} again, "
            f"to x{entry.effective_prior / even:.1f} of an even {even:.1%}; "
            f"loss.class_weights.basis=resampled gives {entry.single_prior:.1%}"
            + (f". Focal loss (gamma {gamma:g}) is a third correction, on top of these" if gamma else "")
        )


def _adjusted_twice(ledger: "Ledger", task: str, entries: list["ClassEntry"]) -> Iterator[str]:
    """Logit adjustment takes the sampled prior out by itself; weights that lift a class do so a second time."""
    tau = ledger.logit_adjustment
    if not tau or not ledger.settings["strength"]:
        return
    for entry in entries:
        by_weight = _lift(entry.effective_prior, entry.sampled_share)
        by_logits = _lift(entry.adjusted_prior, entry.effective_prior)
        if by_weight >= _NOTICED and by_logits >= _NOTICED:
            yield (
                f"{task}.{entry.name}: class weights lift it x{by_weight:.1f} to {entry.effective_prior:.1%}, and logit adjustment "
                f"(tau {tau:g}) x{by_logits:.1f} again, to {entry.adjusted_prior:.1%}: corrected twice; set "
                "loss.class_weights.strength=0 or loss.logit_adjustment=0"
            )


def _overtaken(ledger: "Ledger", task: str, entries: list["ClassEntry"]) -> Iterator[str]:
    limit = float(ledger.settings["warn_factor"])
    for rare in entries:
        above = [other for other in entries if other.rows > rare.rows and rare.effective_prior > limit * other.effective_prior]
        if above:
            others = " and ".join(_beside(rare, other) for other in above)
            yield (
                f"{task}.{rare.name}: {rare.share:.1%} of the rows but {rare.effective_prior:.1%} of the loss, above {others}; "
                f"more than loss.class_weights.warn_factor ({limit:g}) allows"
            )


def _beside(rare: "ClassEntry", other: "ClassEntry") -> str:
    factor = rare.effective_prior / other.effective_prior
    return f"{other.name} ({other.share:.1%} of the rows, {other.effective_prior:.1%} of the loss) by x{factor:.1f}"


def _cap_note(stratum: "StratumEntry", ledger: "Ledger") -> str:
    cap = ledger.settings["max_multiplier"]
    if stratum.capped:
        return f"cap {cap:g} binds ({stratum.uncapped:.2f} before it): its boost and alpha change nothing"
    if stratum.ratio_capped and ledger.settings["alpha"]:
        return f"cap {cap:g} binds on M/n = {ledger.median_stratum / stratum.rows:.1f}"
    return ""


def render(ledger: "Ledger", *, whole: bool = True) -> str:
    """The classes and the warnings as plain text for the terminal; the `whole` of it has every column, and the label combinations."""
    console = tables.console(tables.width(140 if whole else tables.IN_A_FILE))
    console.print(f"points on: {', '.join(map(str, ledger.points)) or 'none of the plan'}")
    console.print(_class_table(ledger, whole))
    if whole:
        console.print(_stratum_table(ledger))
        hidden = len(ledger.strata) - _STRATA_SHOWN
        if hidden > 0:
            console.print(f"and {hidden} label combinations with more rows")
    for warning in ledger.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
    return tables.text_of(console).removesuffix("\n")


def _class_table(ledger: "Ledger", whole: bool) -> Table:
    size = f"{ledger.rows:,} rows, an epoch has {ledger.epoch_rows:,.0f}"
    columns = ["task", "class", "rows", "share", "sampled share", "weight", "effective prior"]
    extra = ["sampled", "focal", *(["adjusted prior"] if ledger.logit_adjustment else []), "cap"]
    title = f"Class balance ({size}; class weights count {ledger.basis} rows)"
    table = tables.table(*columns, *(extra if whole else []), title=title, left=["class", "cap"], gap=1 if whole else 2)
    for task, entries in ledger.tasks.items():
        for entry in entries:
            cells = [f"{entry.rows:,}", f"{entry.share:.1%}", f"{entry.sampled_share:.1%}"]
            cells += [f"{entry.class_weight:.3f}", f"{entry.effective_prior:.1%}"]
            adjusted = [f"{entry.adjusted_prior:.1%}"] if ledger.logit_adjustment else []
            bound = f"{entry.class_weight:g} binds on {entry.uncapped_weight:.2f}" if entry.weight_capped else ""
            more = [f"{entry.sampled_rows:,.0f}", f"{ledger.focal_gamma[task]:g}", *adjusted, bound]
            table.add_row(task, entry.name, *cells, *(more if whole else []))
        table.add_section()
    return table


def _stratum_table(ledger: "Ledger") -> Table:
    title = f"Oversampling by label combination (median {ledger.median_stratum:g} rows)"
    table = tables.table(*ledger.tasks, "rows", "times", "sampled", "cap", title=title, left=[*ledger.tasks, "cap"])
    for stratum in sorted(ledger.strata, key=lambda each: each.rows)[:_STRATA_SHOWN]:
        names = [name or "-" for name in stratum.labels.values()]
        table.add_row(
            *names, f"{stratum.rows:,}", f"{stratum.multiplicity:.2f}", f"{stratum.sampled_rows:,.0f}", _cap_note(stratum, ledger)
        )
    return table
