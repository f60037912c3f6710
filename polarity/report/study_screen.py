"""What only a screen has: the half-normal plot, its runs, shared settings, interactions with their aliases, and the confirmation."""

from markupsafe import Markup
from scipy.stats import norm

from polarity.report.charts import Axis, Point, Series, lines
from polarity.report.page import Section, columns, details, table
from polarity.report.study_effects import Cells, between, effects_table, forest_of, points
from polarity.study import Contrast, Interaction, ScreenEntry, Study


def confirmation_section(study: Study) -> Section | None:
    """What the best predicted combination and everything on do over fresh seeds; None where the study is no screen."""
    if not study.file.screen:
        return None
    if not study.confirmed:
        words = "A screen says which factors to look at. What they come to together is decided by a confirmation over fresh seeds: "
        again = Markup("<p>{}<code>polarity ablate --resume --study-dir STUDY --confirm</code></p>").format(words)
        return Section("confirmation", "Confirmation", again)
    chosen = study.file.screen.chosen
    on = ", ".join(chosen.on if chosen else []) or "everything off"
    lead = (
        f"The combination that the screen predicts to be the best ({on}), everything on, and the baseline, in full over fresh seeds. The "
        "choice was made on the inner validation rows, so the rows that judge it here have decided nothing. This decides; "
        "the screen does not."
    )
    return Section("confirmation", "Confirmation", forest_of(study.confirmed) + effects_table(study.confirmed), lead)


def interactions_section(study: Study) -> Section | None:
    """The half-normal plot, the interactions that can be estimated, and what each run has on."""
    screen = study.file.screen
    if not screen or not screen.contrasts:
        return None
    parts = [half_normal(screen.contrasts), _interactions(screen)]
    if screen.shared:
        parts.append(Markup("<h3>Shared settings</h3>") + table(["setting", "what it is in a run"], _shared(screen)))
    parts.append(details(f"The {len(screen.runs)} runs", _runs(screen)))
    return Section("interactions", "Noise and interactions", Markup("").join(parts), _lead(screen))


def _lead(screen: ScreenEntry) -> str:
    basis = "differences between seeds of the same run" if screen.error_from == "replicates" else "what the linear model leaves"
    words = (
        f"The noise is estimated from {basis}, with {screen.error_df or 0:.0f} degrees of freedom. In the half-normal plot effects "
        "that are only noise lie on a line through zero; what stands out above it is more."
    )
    if screen.aliased:
        words += (
            " With these runs an effect is not clear of interactions: a third of the interaction of any two other factors is in it, "
            "or taken from it. The foldover (--runs 24) is clear of them."
        )
    return words


def half_normal(contrasts: list[Contrast]) -> Markup:
    """Sizes of contrasts over the quantiles of the half-normal distribution (Daniel 1959)."""
    ordered = sorted(contrasts, key=lambda entry: abs(entry.estimate))
    count = len(ordered)
    of_factors, others = list[Point](), list[Point]()
    for rank, entry in enumerate(ordered):
        quantile, name = float(norm.ppf(0.5 + 0.5 * (rank + 0.5) / count)), entry.name
        dot = Point(quantile, abs(entry.estimate), f"{name}: {points(entry.estimate)}", 4.0)
        (others if name.startswith("unused") or " x " in name else of_factors).append(dot)
    series = [Series("factor", of_factors, "s1", dots=True, line=False)]
    if others:
        series.append(Series("no factor: noise and interactions", others, "s4", dots=True, line=False))
    sizes = Axis("size of the effect, points", 0.0, number=lambda v: points(v, sign=False))
    return lines(series, x=Axis("half-normal quantile", 0.0), y=sizes, label="half-normal plot of the effects")


def _interactions(screen: ScreenEntry) -> Markup:
    found = screen.interactions
    if not found:
        return Markup("<p>No interaction of two factors can be told from the effects with these runs.</p>")
    rows: Cells = [[" \N{MULTIPLICATION SIGN} ".join(e.factors), points(e.estimate), between(e.low, e.high), _aliases(e)] for e in found]
    head = ["interaction", "points", "95 % interval", "its estimate also holds"]
    note = (
        '<p class="muted">Half of what one factor changes in the other\N{RIGHT SINGLE QUOTATION MARK}s effect. None is claimed: the '
        "intervals are not corrected for their number, and an estimate holds the shown shares of its aliases.</p>"
    )
    first, rest = rows[:8], rows[8:]
    more = details(f"The other {len(rest)}", table(head, rest, numeric=(1, 2))) if rest else Markup("")
    return Markup("<h3>Interactions of two factors</h3>") + Markup(note) + table(head, first, numeric=(1, 2)) + more


def _aliases(entry: Interaction) -> Markup | str:
    shares = entry.aliases
    if not shares:
        return "nothing else"
    words = ", ".join(f"{value:+.2f} {name.replace('point-', '')}" for name, value in shares.items())
    return words if len(shares) <= 4 else details(f"parts of {len(shares)} other interactions", Markup("<p>{}</p>").format(words))


def _shared(screen: ScreenEntry) -> Cells:
    rows: Cells = []
    for entry in screen.shared:
        alone = ", ".join(f"{value} with {name} alone" for name, value in entry.alone.items())
        rows.append([entry.setting, f"{alone}; {entry.together} with {' and '.join(entry.alone)} on"])
    return rows


def _runs(screen: ScreenEntry) -> Markup:
    names = [factor.name for factor in screen.factors]
    rows: Cells = [[run, *("+" if sign > 0 else "\N{MINUS SIGN}" for sign in signs)] for run, signs in screen.runs.items()]
    return columns(table(["run", *names], rows))
