"""The part of a run's report on a stack: what each member is worth and cost, what combines them, suspect labels, and the student."""

from markupsafe import Markup, escape

from polarity.best.plan import clock
from polarity.best.record import Ceiling, Difference, Outcome, ceiling_lines
from polarity.report.charts import Effect, forest
from polarity.report.page import Section, table
from polarity.report.record import Record

_TONES = {"gain": "good", "loss": "bad"}


def stack_section(record: Record) -> Section | None:
    """Members by their own score, with what the stack loses without each; None where the run is no finished stack."""
    outcome = None if record.best is None else record.best.outcome
    if outcome is None:
        return None
    rows = [
        [member.name, member.kind, _score(member.macro_f1, member.ci95), _difference(member.drop_one), clock(member.seconds)]
        for member in sorted(outcome.members, key=lambda each: -each.macro_f1)
    ]
    worth = [
        Effect(member.name, found.difference, *found.ci95, tone=_TONES.get(found.verdict, "flat"), note=found.verdict)
        for member in outcome.members
        if (found := member.drop_one) is not None
    ]
    body = table(["member", "kind", "alone, out of fold", "stack less the stack without it", "took"], rows, numeric=[2, 3, 4])
    if worth:
        body += forest(worth, label="what the stack loses without each member, overall macro-F1")
    body += Markup("").join(Markup("<p>{}</p>").format(line) for line in _lines(outcome))
    if outcome.ceiling is not None:
        body += _ceiling(outcome.ceiling)
    lead = "Every score here is of rows that neither trained the member nor chose weights or biases for themselves."
    return Section("members", "Members of the stack", body, lead)


def _ceiling(ceiling: Ceiling) -> Markup:
    """Rows of the learning curve, then of its extension, and what it means in words."""
    rows = [[f"{point.rows:,}", "cheap members, measured", _score(point.macro_f1, point.ci95)] for point in ceiling.curve]
    rows += [[f"{reach.rows:,}", "stack, expected", _score(reach.macro_f1, reach.ci95)] for reach in ceiling.reach]
    lines = Markup("").join(Markup("<p>{}.</p>").format(line[0].upper() + line[1:]) for line in list(ceiling_lines(ceiling))[2:])
    return Markup("<h3>Where the ceiling is</h3>") + table(["labelled rows", "model", "overall macro-F1"], rows, numeric=[0, 2]) + lines


def _lines(outcome: Outcome) -> list[str]:
    scores = ", ".join(f"{rule} {100 * score:.1f} %" for rule, score in outcome.rules.items())
    lines = [f"Combined by {outcome.rule}; cross-fitted overall macro-F1 of each rule: {scores}."]
    if outcome.against_best_member is not None:
        lines.append(f"Against the best member: {_difference(outcome.against_best_member)}.")
    for task, gain in outcome.biases.items():
        low, high = (100 * bound for bound in gain.ci95)
        kept = "kept" if gain.kept else "not kept"
        lines.append(f"Class biases of {task} {kept}: {100 * gain.cross_fitted:+.1f} points [{low:+.1f}, {high:+.1f}] cross-fitted.")
    suspects = ", ".join(f"{count:,} of {task}" for task, count in outcome.label_errors.items())
    lines.append(f"Labels that the stack contradicts with confidence: {suspects}; label_errors.parquet lists them.")
    if outcome.student is not None:
        lines.append(f"Student: {outcome.student}.")
    return lines


def _score(score: float, ci95: tuple[float, float]) -> str:
    return f"{score:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"


def _difference(found: Difference | None) -> Markup | str:
    if found is None:
        return "the only member"
    low, high = (100 * bound for bound in found.ci95)
    return escape(f"{100 * found.difference:+.1f} points [{low:+.1f}, {high:+.1f}], {found.verdict}")
