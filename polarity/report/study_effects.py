"""What a study found: verdicts, the forest plot, the plan's claims, effects by class, and how small an effect it could see."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from polarity.report.charts import Band, Bar, Effect, bars, forest, legend
from polarity.report.page import PageSection, columns, details, fragment, table, verdict_pill
from polarity.report.run import duration
from polarity.strategy import CLAIMS_NOTE, POINTS, TIERS
from polarity.study import HELPS, HURTS, EffectRow, Study, excludes_zero

_TONES = {HELPS: "good", HURTS: "bad"}
Cells = list[list[Markup | str]]


def headline(study: Study) -> Markup:
    """The finding in a sentence or two."""
    rows = study.decided
    if not rows:
        return Markup("<p>No effects yet: no arm has been confirmed in full together with its reference.</p>")
    if not study.tested:
        return Markup("<p>One seed shows no spread over seeds, so that nothing is decided. Run at least two seeds, better five.</p>")
    found = {verdict: [row for row in rows if row["verdict"] == verdict] for verdict in (HELPS, HURTS)}
    sentences = Markup("")
    for verdict, of_it in found.items():
        if of_it:
            shown = [f"{named(row['arm'])} {points(row['difference'])} [{points(row['low'])}, {points(row['high'])}]" for row in of_it]
            listed = ", ".join(shown)
            sentences += Markup("<p>{} {}</p>").format(verdict_pill(verdict), listed)
    left = [named(row["arm"]) for row in rows if row["verdict"] not in found]
    if left:
        sentences += Markup("<p>{} {}</p>").format(verdict_pill("no evidence"), ", ".join(left))
    return sentences + Markup(
        '<p class="muted">Points of overall macro-F1 (hundredths) against each arm\N{RIGHT SINGLE QUOTATION MARK}s reference.</p>'
    )


def effects_section(study: Study) -> PageSection:
    """The forest plot with the plan's claims as bands, and the table."""
    rows = study.decided
    if not rows:
        return PageSection("effects", "Effects", Markup("<p>None yet.</p>"))
    lead = (
        "Difference in overall macro-F1, in points (hundredths), on the same seeds and the same rows, which chose nothing. The interval "
        "speaks of other seeds and other rows like these. A verdict needs Holm's p over all arms below 0.05; an interval alone decides "
        "nothing."
    )
    if study.file.screen:
        lead = (
            "What each factor does to overall macro-F1, in points (hundredths): the mean with it on less the mean with it off, over all "
            "settings of the others, from one linear model over all runs. The effect rows chose nothing. A verdict needs Holm's p over all "
            "factors below 0.05."
        )
    return PageSection("effects", "Effects", forest_of(rows, with_reference=not study.file.screen) + effects_table(rows), lead)


def forest_of(rows: Sequence[EffectRow], *, with_reference: bool = True) -> Markup:
    """Differences with their intervals, the plan's claims behind them."""
    marks = [
        Effect(
            named(row["arm"]),
            row["difference"],
            row["low"],
            row["high"],
            _TONES.get(row["verdict"] or "", "flat"),
            note=f"against {row['reference']}" if with_reference else "",
            bands=_claim(row),
        )
        for row in rows
    ]
    words = [("dot good", "helps"), ("dot bad", "hurts"), ("dot flat", "no evidence"), ("whisker", "95 % interval")]
    chart = forest(marks, label="difference in overall macro-F1 of each arm to its reference", number=points, axis=points, keys=False)
    return chart + legend(words)


def named(arm: str) -> str:
    """An arm's name and, where it is one point of the plan, what that point is: `point-3 (longer training)`."""
    found = {f"point-{number}": point.title for number, point in POINTS.items()}
    return f"{arm} ({found[arm]})" if arm in found else arm


def _claim(row: EffectRow) -> tuple[Band, ...]:
    low, high = row["claim_low"], row["claim_high"]
    return () if low is None or high is None else (Band(low, high, "the plan's claim"),)


def effects_table(rows: Iterable[EffectRow]) -> Markup:
    head = [
        "arm", "against", "score", "its score", "difference", "95 % interval", "p", "p (Holm)", "verdict", "plan claims", "seeds",
        "training", "cost",
    ]  # fmt: skip
    cells: Cells = [
        [
            Markup("<b>{}</b>").format(row["arm"]),
            row["reference"] or "",
            points(row["score"], sign=False),
            points(row["reference_score"], sign=False),
            points(row["difference"]),
            between(row["low"], row["high"]),
            probability(row["p"]),
            probability(row["p_holm"]),
            verdict_pill(row["verdict"] or ""),
            between(row["claim_low"], row["claim_high"]),
            str(row["seeds"]),
            "" if row["seconds"] is None else duration(row["seconds"]),
            f"{row['seconds'] / row['reference_seconds']:.1f}\N{MULTIPLICATION SIGN}"
            if row["seconds"] and row["reference_seconds"]
            else "",
        ]
        for row in rows
    ]
    return table(head, cells, numeric=(2, 3, 4, 5, 6, 7, 9, 10, 11, 12))


def compute_section(study: Study) -> PageSection | None:
    """What each arm had reached with the cheapest arm's compute."""
    equal = study.file.equal_compute
    if not equal or not equal.arms:
        return None
    rows: list[Bar | str] = []
    for entry in equal.arms:
        score = entry.score
        note = f"in full {points(entry.full_score, sign=False)}"
        rows.append(Bar(entry.arm, 0.0 if score is None else score, note=note if score is not None else f"nothing by then; {note}"))
    budget = duration(equal.budget or 0.0) if equal.unit == "seconds" else f"{equal.budget or 0.0:g} epochs"
    lead = (
        f"Best score on the inner validation rows within what the cheapest arm, {equal.cheapest}, used ({budget} of training), mean "
        "over seeds. An arm that is better only because it trains for longer falls behind here; its schedule was made for more, though."
    )
    chart = bars(rows, label="score at equal compute", number=lambda v: points(v, sign=False), axis=lambda v: points(v, sign=False))
    return PageSection("compute", "Score at equal compute", chart, lead)


def classes_section(study: Study) -> PageSection | None:
    """The differences by task and class, a column per arm."""
    arms = [row["arm"] for row in study.decided]
    by_metric: dict[str, dict[str, EffectRow]] = {}
    for row in study.effects_of(study.main_stage):
        by_metric.setdefault(row["metric"], {})[row["arm"]] = row
    if not arms:
        return None
    most = max(abs(row["difference"]) for row in study.effects) or 1.0
    rows = [
        {"metric": metric, "strong": "/" not in metric, "cells": [_heat_cell(of_arms.get(arm), most) for arm in arms]}
        for metric, of_arms in by_metric.items()
    ]
    lead = (
        "Difference in F1 of each class and in macro-F1 of each task, in points. A star: the 95 % interval of that one number excludes "
        "zero. These are not corrected for their number and decide nothing: of twenty without an effect about one gets a star."
    )
    return PageSection("classes", "Effects by task and class", fragment("study_heat.html", arms=arms, rows=rows), lead)


def _heat_cell(row: EffectRow | None, most: float) -> dict[str, str | int]:
    """A cell of the heat map for its template: its text and tooltip, and its colour with a strength of 0 to 60 %."""
    if row is None:
        return {"text": "", "tone": "", "shade": 0, "title": "not confirmed"}
    clear = excludes_zero(row)
    words = f"{row['arm']}, {row['metric']}: {points(row['difference'])}"
    return {
        "text": points(row["difference"]) + ("*" if clear else ""),
        "tone": "up" if row["difference"] > 0 else "down",
        "shade": round(60 * abs(row["difference"]) / most),
        "title": words if row["low"] is None else f"{words}, 95 % interval {between(row['low'], row['high'])}",
    }


def precision_section(study: Study) -> PageSection:
    """How small an effect the study could see, as reckoned before it and as measured, and the scores of each seed."""
    sizes, spread = study.file.detectable, study.file.spread
    forecasts = ((sizes.before, "reckoned before, from the spread of earlier studies"), (sizes.after, "measured, from the spread found"))
    known: Cells = [[words, points(size, sign=False)] for size, words in forecasts if size is not None]
    words = "The smallest effect that is seen with a power of 80 %:"
    facts = table(["", "points"], known, numeric=(1,), caption=words, narrow=True) if known else Markup("")
    measured = (
        (spread.seed_sd, "over seeds, of one seed's paired difference"),
        (spread.trial_sd, "over seeds, of one run's score"),
        (spread.row_sd, "of the rows' part, shared by all seeds"),
    )
    found: Cells = [[words, f"{100 * value:.2f}"] for value, words in measured if value is not None]
    facts += table(["", "points"], found, numeric=(1,), caption="Measured standard deviations:", narrow=True) if found else Markup("")
    lead = "Dots are single trials: how far they lie apart within an arm is what a single run's score can be trusted for."
    return PageSection("spread", "Seed spread and precision", columns(seed_chart(study), facts) if facts else seed_chart(study), lead)


def seed_chart(study: Study) -> Markup:
    """A row of dots per arm: its confirmed trials on the effect rows, or the inner validation scores where those are not there."""
    finished = study.of("screen", "finished") or study.of("confirm", "finished") or study.of(None, "finished")
    if not finished:
        return Markup("<p>No trial has finished.</p>")
    whole = all(trial.id in study.scores for trial in finished)
    value = {trial.id: study.scores[trial.id] if whole else trial.overall or 0.0 for trial in finished}
    low, high = min(value.values()), max(value.values())
    pad = 0.05 * ((high - low) or 0.02)
    rows = []
    for arm in study.arm_names:
        trials = [trial for trial in finished if trial.arm == arm]
        own = [value[trial.id] for trial in trials]
        dots = [
            {"x": 100 * (at - low + pad) / (high - low + 2 * pad), "title": f"seed {trial.seed}: {points(at, sign=False)}"}
            for trial, at in zip(trials, own, strict=True)
        ]
        if own:
            spread = f"{points(min(own), sign=False)} to {points(max(own), sign=False)}"
            rows.append({"arm": arm, "dots": dots, "spread": spread if len(own) > 1 else points(own[0], sign=False)})
    on = "the effect rows" if whole else "the inner validation rows"
    return fragment("study_dots.html", rows=rows, label=f"overall macro-F1 of each trial on {on}, in points")


def claims_section() -> PageSection:
    """The plan's own claims, all of them."""

    def claim(low: float, high: float) -> str:
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"

    tiers: Cells = [[f"tier {tier.number}", tier.title, claim(*tier.claim)] for tier in TIERS.values()]
    of_points: Cells = [[f"point {point.number}", point.title, claim(*point.claim), point.source] for point in POINTS.values()]
    body = columns(
        table(["", "tier", "claim"], tiers, numeric=(2,)),
        details("The ten points", table(["", "point", "claim", "technique"], of_points, numeric=(2,))),
    )
    return PageSection("claims", "What the plan claims", body, CLAIMS_NOTE)


def points(value: float | None, sign: bool = True) -> str:
    """A fraction as points with one decimal, with a true minus sign; nothing where it is unknown."""
    if value is None:
        return ""
    text = f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"
    return ("0.0" if text in ("+0.0", "-0.0") else text).replace("-", "\N{MINUS SIGN}")


def between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{points(low)} to {points(high)}"


def probability(value: float | None) -> str:
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
