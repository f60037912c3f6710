"""Charts: positions worked by hand, escaping, round ticks; the page: nothing loaded, nothing run, well formed."""

import itertools
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from polarity.report.charts import Axis, Band, Bar, Effect, Mark, PlotPoint, Series, bars, confusion, forest, lines, nice_ticks
from polarity.report.page import PageSection, columns, details, render_page, table, verdict_pill
from polarity.report.study import render_study

STUDY = Path(__file__).parents[2] / "jobs" / "studies" / "2026-11-27-screen-points"
EVIL = "<script>\"&'</script>"


def found(markup: Markup, tag: str, style: str) -> list[ET.Element]:
    """Elements of the chart with that tag and CSS class; the markup must be well-formed XML."""
    return [e for e in ET.fromstring(str(markup)).iter(tag) if style in (e.get("class") or "").split()]


def test_bar_marks_and_whisker_stand_where_their_values_are() -> None:
    bar = Bar("neutral", 0.5, 0.4, 0.65, marks=(Mark(0.75, "target", "target"),), bands=(Band(0.6, 0.7, "claim"),))
    chart = bars([bar, "heading", Bar("other", 0.25)], low=0.0, high=1.0, label="F1")
    assert [e.get("width") for e in found(chart, "rect", "bar")] == ["50.00%", "25.00%"]
    assert [e.get("x1") for e in found(chart, "line", "mark")] == ["75.00%"]
    (band,) = found(chart, "rect", "band")
    assert (band.get("x"), band.get("width")) == ("60.00%", "10.00%")
    (whisker,) = found(chart, "g", "whisker")
    assert next((e.get("x1"), e.get("x2")) for e in whisker.iter("line")) == ("40.00%", "65.00%")
    assert "neutral: 0.500, 95 % interval 0.400 to 0.650" in ET.tostring(whisker, encoding="unicode")


def test_axis_that_does_not_begin_at_zero() -> None:
    (bar,) = found(bars([Bar("a", 75.0)], low=50.0, high=100.0, label="x"), "rect", "bar")
    assert bar.get("width") == "50.00%"


def test_forest_has_one_zero_line_a_row_and_the_verdicts_colour() -> None:
    effects = [Effect("up", 0.02, 0.01, 0.03, "good"), Effect("down", -0.02, -0.03, -0.01, "bad"), Effect("one seed", 0.0)]
    chart = forest(effects, label="effects")
    zeros = {e.get("x1") for e in found(chart, "line", "zero")}
    assert zeros == {"50.00%"}  # symmetric effects, so zero is in the middle
    assert [e.get("class") for e in found(chart, "circle", "dot")] == ["dot good", "dot bad", "dot flat"]
    assert len(found(chart, "g", "whisker")) == 2
    good, bad = (float(found(chart, "circle", tone)[0].get("cx", "").rstrip("%")) for tone in ("good", "bad"))
    assert good - 50 == pytest.approx(50 - bad, abs=0.02)


def test_lines_leave_out_what_is_not_finite_and_turn_the_y_axis_up() -> None:
    series = Series("loss", [PlotPoint(0, 0), PlotPoint(1, float("nan")), PlotPoint(2, 1), PlotPoint(4, float("inf"))])
    chart = lines([series], x=Axis("step", 0, 4), y=Axis("loss", 0, 2), label="loss")
    (line,) = found(chart, "polyline", "line")
    assert line.get("points") == "0.00,100.00 50.00,50.00"
    assert len(found(chart, "circle", "dot")) == 2


def test_lines_of_nothing_and_of_one_point_are_drawn() -> None:
    for points in ([], [PlotPoint(3, 3)]):
        chart = lines([Series("a", points)], x=Axis("x"), y=Axis("y"), label="empty")
        assert not found(chart, "polyline", "line")


def test_confusion_shades_a_row_by_its_shares() -> None:
    chart = confusion(["a", "b_c"], [[3, 1], [0, 0]], label="confusion")
    cells = list(ET.fromstring(str(chart)).iter("td"))
    assert [e.get("class") for e in cells] == ["hit", "miss", "miss", "hit"]
    assert ["".join(e.itertext()) for e in cells] == ["375%", "125%", "00%", "00%"]
    shades = [int((e.get("style") or "").split(":")[1].rstrip("%")) for e in cells]
    assert shades[0] > shades[1] > shades[2] == shades[3]


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6), st.integers(2, 9))
def test_ticks_are_few_even_and_inside(low: float, span: float, most: int) -> None:
    high = low + span
    ticks = nice_ticks(low, high, most)
    assert 1 <= len(ticks) <= max(most, 2)
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in ticks)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert all(step == pytest.approx(steps[0], rel=1e-3) for step in steps)


def test_round_ticks() -> None:
    assert nice_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert nice_ticks(-0.021, 0.06, 5) == pytest.approx([-0.02, 0, 0.02, 0.04, 0.06])
    assert nice_ticks(2, 2) == [2]


def every_part() -> str:
    """A page with each chart and helper, all text hostile."""
    parts = [
        bars([Bar(EVIL, 0.4, 0.3, 0.5, note=EVIL, marks=(Mark(0.2, EVIL, "floor"),), bands=(Band(0, 1, EVIL),)), EVIL], label=EVIL),
        forest([Effect(EVIL, 0.1, 0.0, 0.2, note=EVIL, group=EVIL)], label=EVIL),
        lines([Series(EVIL, [PlotPoint(0, 0, EVIL), PlotPoint(1, 1)])], x=Axis(EVIL), y=Axis(EVIL), label=EVIL, verticals=[(0.5, EVIL)]),
        confusion([EVIL, "b"], [[1, 2], [3, 4]], label=EVIL),
        table([EVIL], [[EVIL]], caption=EVIL),
        details(EVIL, columns(verdict_pill(EVIL))),
    ]
    body = Markup("").join(parts)
    sections, facts = [PageSection("a", EVIL, body, EVIL)], [(EVIL, EVIL)]
    return render_page(
        title=EVIL, kind=EVIL, headline=EVIL, sections=sections, facts=facts, banner=EVIL, notices=[EVIL], footer=EVIL,
    )  # fmt: skip


class Balanced(HTMLParser):
    """Reads a page as a browser would and notes its tags; every element must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_escapes_everything_and_loads_nothing() -> None:
    page = every_part()
    read = Balanced(page)
    assert read.tags.isdisjoint({"script", "img", "link", "iframe", "object", "base", "form"})
    assert not any(name.startswith("on") or name == "src" for name in read.attributes)
    assert not re.search(r"https?://|url\(|@import", page)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


class Tables(HTMLParser):
    """Notes for every table whether what holds it can be moved sideways, so that no width of a page clips it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.around: list[str] = []
        self.moves: list[bool] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.moves.append(bool({"scroll", "sideways"} & set(self.around[-1].split())))
        if tag != "meta":
            self.around.append(dict(attrs).get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        self.around.pop()


def test_every_table_has_a_frame_of_its_own_that_moves_sideways() -> None:
    found = Tables(every_part() + render_study(str(STUDY))).moves
    assert len(found) > 10 and all(found)


@pytest.mark.parametrize(
    ("words", "tone"),
    [
        ("met", "good"),
        ("missed by 0.1", "bad"),
        ("within noise", "flat"),
        ("above by 0.1", "good"),
        ("no evidence", "flat"),
        ("hurts", "bad"),
    ],
)
def test_verdicts_have_their_colour(words: str, tone: str) -> None:
    assert f'class="pill {tone}"' in verdict_pill(words)
