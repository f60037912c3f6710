"""The picture of a screen of the plan's points, from a study's record: each effect with its interval beside the plan's claim.

Usage: python jobs/verdicts.py STUDY [FOLDER]      writes FOLDER/points-light.svg and points-dark.svg (default: jobs/pictures)
"""

import sys
from pathlib import Path
from typing import Any

from markupsafe import Markup

from polarity.errors import RunError
from polarity.report.charts import Scale, nice_ticks
from polarity.strategy import POINTS
from polarity.study import Arm, Study

LOOKS = {
    "light": {"page": "#ffffff", "text": "#1f2328", "muted": "#59636e", "grid": "#d8dee4", "claim": "#d4dfee"},
    "dark": {"page": "#0d1117", "text": "#e6edf3", "muted": "#9198a1", "grid": "#30363d", "claim": "#263852"},
}
TONES = {
    "light": {"helps": "#1a7f37", "hurts": "#cf222e", "no evidence": "#59636e"},
    "dark": {"helps": "#3fb950", "hurts": "#f85149", "no evidence": "#9198a1"},
}
WIDTH, LEFT, RIGHT, TOP, ROW = 860, 170, 600, 46, 28


def main(place: str, folder: Path) -> None:
    """Draw the decided effects of the study `place`. Raises RunError where it holds none."""
    study = Study.open(place)
    arms = {arm.name: arm for arm in [*study.arms, *(study.file.screen.factors if study.file.screen else ())]}
    rows = [row for row in study.decided if row["low"] is not None]
    if not rows:
        raise RunError(f"{place}: no effect with an interval yet; run more seeds, or go on with polarity ablate --resume")
    for look in LOOKS:
        (folder / f"points-{look}.svg").write_text(picture(rows, arms, look), encoding="utf-8")


def picture(rows: list[dict[str, Any]], factors: dict[str, Arm], look: str) -> str:
    """The SVG of one look; `rows` are those of effects.parquet, in fractions of macro-F1."""
    colour, claims = LOOKS[look], [claim_of(factors[row["arm"]]) for row in rows]
    edges = [edge for row, claim in zip(rows, claims, strict=True) for edge in (100 * row["low"], 100 * row["high"], *(claim or ()))]
    scale = Scale(min(0.0, *edges) - 0.5, max(0.0, *edges) + 0.5)
    bottom = TOP + ROW * len(rows)

    def x(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * scale(value), 1)

    parts = [Markup('<rect width="100%" height="100%" fill="{page}"/>').format(**colour)]
    parts.append(_text(LEFT, 16, "effect on overall macro-F1, points, with 95 % interval", colour["text"], bold=True))
    parts.append(Markup('<rect x="{}" y="24" width="22" height="11" fill="{}"/>').format(LEFT, colour["claim"]))
    parts.append(_text(LEFT + 28, 34, "what the plan claims (a verdict needs Holm's p over all points below 0.05)", colour["muted"]))
    for tick in nice_ticks(scale.low, scale.high, 9):
        line = '<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" stroke="{3}" stroke-width="{4}"/>'
        parts.append(Markup(line).format(x(tick), TOP, bottom, colour["text" if tick == 0 else "grid"], 1))
        parts.append(_text(x(tick), bottom + 16, f"{tick:+g}" if tick else "0", colour["muted"], anchor="middle"))
    for number, (row, claim) in enumerate(zip(rows, claims, strict=True)):
        y, tone = TOP + ROW * number + ROW / 2, TONES[look][row["verdict"]]
        low, mid, high = (100 * row[key] for key in ("low", "difference", "high"))
        parts.append(_text(LEFT - 12, y + 4, title_of(factors[row["arm"]]), colour["text"], anchor="end"))
        if claim:
            band = '<rect x="{}" y="{}" width="{}" height="16" fill="{}"/>'
            parts.append(Markup(band).format(x(claim[0]), y - 8, round(max(3.0, x(claim[1]) - x(claim[0])), 1), colour["claim"]))
        parts.append(
            Markup('<path d="M{0} {3}H{1}M{0} {4}v8M{1} {4}v8" stroke="{2}" stroke-width="2"/>').format(x(low), x(high), tone, y, y - 4)
        )
        parts.append(Markup('<circle cx="{}" cy="{}" r="5" fill="{}"/>').format(x(mid), y, tone))
        shown = f"{mid:+.1f} [{low:+.1f}, {high:+.1f}]"
        parts.append(_text(RIGHT + 12, y + 4, shown, colour["text"]))
        parts.append(_text(RIGHT + 156, y + 4, row["verdict"], tone, bold=True))
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" font-family="sans-serif" font-size="13">{2}'
    )
    return str(Markup(head + "</svg>\n").format(WIDTH, bottom + 28, Markup("").join(parts)))


def title_of(factor: Arm) -> str:
    """A point's number and title; another factor's name."""
    return f"{factor.points[0]} {POINTS[factor.points[0]].title}" if len(factor.points) == 1 else factor.name


def claim_of(factor: Arm) -> tuple[float, float] | None:
    """What the plan claims for a factor that is one of its points, in points of macro-F1."""
    return POINTS[factor.points[0]].claim if len(factor.points) == 1 else None


def _text(x: float, y: float, words: str, fill: str, *, anchor: str = "start", bold: bool = False) -> Markup:
    weight = ' font-weight="600"' if bold else ""
    shape = '<text x="{}" y="{}" fill="{}" text-anchor="{}"' + weight + ">{}</text>"
    return Markup(shape).format(x, y, fill, anchor, words.replace("-", "\N{MINUS SIGN}") if words[:1] in "+-" else words)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent / "pictures")
