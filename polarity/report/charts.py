"""Charts as inline SVG in plain HTML: no script, no network, colours from the page's CSS variables, and a tooltip on every mark.

Positions inside an SVG are percentages, so a chart fills whatever width the page gives it while its text keeps its size: the same
markup is readable at 1280 and at 390 pixels. Everything that is passed in as text is escaped. Tones are the names of CSS classes
(style.css): accent, good, bad, flat, and s1 to s6 for series. First scales, lines and dots; then bars, intervals and heat maps.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

Format = Callable[[float], str]


def fraction(value: float) -> str:
    """0.7012 -> `0.701`."""
    return f"{value:.3f}"


def signed(value: float) -> str:
    """0.0123 -> `+0.012`, with a true minus sign."""
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def signed_short(value: float) -> str:
    """For axes of differences: `+0.02`, `0`."""
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}") if abs(value) > 1e-12 else "0"


def short(value: float) -> str:
    """For axes: at most three significant digits, `0.5`, `2e-05`, and from a thousand on whole numbers, `1,200`."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Scale:
    """Data to fractions of the axis."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def x(self, value: float) -> str:
        return f"{100 * self(value):.2f}%"

    def y(self, value: float) -> str:
        return f"{100 - 100 * self(value):.2f}%"


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round values (steps of 1, 2, 2.5 or 5 times a power of ten) within [low, high]."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    for step in (power * factor for factor in (1, 2, 2.5, 5, 10, 20, 25, 50, 100)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [index * step for index in range(first, last + 1)]
    return [low, high]


def legend(entries: Iterable[tuple[str, str]]) -> Markup:
    """A line of (CSS classes of the swatch, words), each once; empty where there are none."""
    items = Markup("").join(Markup('<li><i class="key {}"></i>{}</li>').format(style, words) for style, words in dict.fromkeys(entries))
    return Markup('<ul class="legend">{}</ul>').format(items) if items else Markup("")


def anchor(at: float) -> str:
    return "start" if at < 0.02 else "end" if at > 0.98 else "middle"


def x_texts(across: Scale, ticks: Sequence[float], number: Format) -> Markup:
    """The numbers under an axis, kept inside it at its ends."""
    text = '<text x="{}" y="13" text-anchor="{}">{}</text>'
    return Markup("").join(Markup(text).format(across.x(tick), anchor(across(tick)), number(tick)) for tick in ticks)


MAX_POINTS = 60
"""A line with more points than this is drawn without a dot on each."""


@dataclass(frozen=True)
class PlotPoint:
    """A dot at data position (x, y), `radius` in pixels, with an optional interval of y."""

    x: float
    y: float
    title: str = ""
    radius: float = 3.0
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A line through `points`; `dots` None draws dots where they are few. `dashed` for references."""

    label: str
    points: Sequence[PlotPoint]
    tone: str = "s1"
    dashed: bool = False
    dots: bool | None = None
    line: bool = True


@dataclass(frozen=True)
class Axis:
    """Words of an axis and its range; None is taken from the data."""

    label: str
    low: float | None = None
    high: float | None = None
    number: Format = short
    whole: bool = False
    """Whether only whole numbers are marked, as for epochs."""

    def scale(self, values: Sequence[float]) -> Scale:
        """The range, with some air where it comes from the data."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        pad = 0.05 * ((high - low) or abs(high) or 1.0)
        return Scale(low - pad if self.low is None else self.low, high + pad if self.high is None else self.high)


def lines(
    series: Sequence[Series], *, x: Axis, y: Axis, label: str, square: bool = False, verticals: Sequence[tuple[float, str]] = ()
) -> Markup:
    """Lines over two linear axes; `square` for diagrams whose axes are alike; `verticals` are (x, words) of dashed uprights.

    Points that are not finite are left out.
    """
    series = [replace(each, points=[p for p in each.points if math.isfinite(p.x) and math.isfinite(p.y)]) for each in series]
    points = [point for each in series for point in each.points]
    across = Scale(*_tight(x, [p.x for p in points]))
    up = y.scale([p.y for p in points])
    x_ticks, y_ticks = nice_ticks(across.low, across.high, 5), nice_ticks(up.low, up.high, 5)
    x_ticks = [tick for tick in x_ticks if not x.whole or math.isclose(tick, round(tick))]
    inside = _grid(across, up, x_ticks, y_ticks, verticals)
    inside += Markup("").join(_line(each, across, up) for each in series)
    body = Markup(
        '<div class="y-axis" aria-hidden="true"><svg>{}</svg></div><div class="area"><svg role="presentation">{}</svg></div>'
        '<div class="x-axis" aria-hidden="true"><svg height="18">{}</svg><span>{}</span></div>'
    ).format(_y_texts(up, y_ticks, y.number), inside, x_texts(across, x_ticks, x.number), x.label)
    keys = legend((_key(each), each.label) for each in series if each.label)
    figure = '<figure class="chart plot{}" aria-label="{}"><div class="y-label">{}</div><div class="frame">{}</div>{}</figure>'
    return Markup(figure).format(" square" if square else "", label, y.label, body, keys)


def _key(series: Series) -> str:
    if not series.line:
        return f"dot {series.tone}"
    return f"line {series.tone}{' dashed' if series.dashed else ''}"


def _tight(axis: Axis, values: Sequence[float]) -> tuple[float, float]:
    """The x axis has no air; a single value gets some."""
    low = min(values, default=0.0) if axis.low is None else axis.low
    high = max(values, default=1.0) if axis.high is None else axis.high
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _grid(across: Scale, up: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], verticals: Sequence[tuple[float, str]]) -> Markup:
    drawn = [Markup('<line class="grid" x1="{0}" x2="{0}" y1="0" y2="100%"/>').format(across.x(tick)) for tick in x_ticks]
    drawn += [Markup('<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(up.y(tick)) for tick in y_ticks]
    for at, words in verticals:
        upright = '<line class="upright" x1="{0}" x2="{0}" y1="0" y2="100%"><title>{1}</title></line>'
        drawn.append(Markup(upright).format(across.x(at), words))
    return Markup("").join(drawn)


def _line(series: Series, across: Scale, up: Scale) -> Markup:
    path = " ".join(f"{100 * across(p.x):.2f},{100 - 100 * up(p.y):.2f}" for p in series.points)
    drawn = Markup("")
    if series.line and len(series.points) > 1:
        shape = (
            '<svg viewBox="0 0 100 100" preserveAspectRatio="none"><polyline class="line {}{}" points="{}" '
            'vector-effect="non-scaling-stroke"><title>{}</title></polyline></svg>'
        )
        drawn += Markup(shape).format(series.tone, " dashed" if series.dashed else "", path, series.label)
    few = len(series.points) <= MAX_POINTS and not series.dashed
    for point in series.points if (few if series.dots is None else series.dots) else ():
        if point.low is not None and point.high is not None:
            bar = '<line class="stem {0}" x1="{1}" x2="{1}" y1="{2}" y2="{3}"/>'
            drawn += Markup(bar).format(series.tone, across.x(point.x), up.y(point.low), up.y(point.high))
        dot = '<circle class="dot {}" cx="{}" cy="{}" r="{:.1f}"><title>{}</title></circle>'
        words = point.title or f"{series.label}: {short(point.y)} at {short(point.x)}"
        drawn += Markup(dot).format(series.tone, across.x(point.x), up.y(point.y), point.radius, words)
    return drawn


def _y_texts(up: Scale, ticks: Sequence[float], number: Format) -> Markup:
    text = '<text x="100%" y="{}" dx="-6" dy="4" text-anchor="end">{}</text>'
    return Markup("").join(Markup(text).format(up.y(tick), number(tick)) for tick in ticks)


@dataclass(frozen=True)
class Mark:
    """A reference line on a bar: `style` is floor, baseline, target or stretch."""

    value: float
    label: str
    style: str


@dataclass(frozen=True)
class Band:
    """A shaded range behind a bar or an effect, such as a claim."""

    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A horizontal bar; `low` and `high` are its interval, None where it has none."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    tone: str = "accent"
    note: str = ""
    marks: tuple[Mark, ...] = ()
    bands: tuple[Band, ...] = ()


@dataclass(frozen=True)
class Effect(Bar):
    """A difference with its interval (None: not known); `tone` is good, bad or flat; `group` starts a new heading where it changes."""

    tone: str = "flat"
    group: str = ""


def bars(
    rows: Sequence[Bar | str], *, low: float = 0.0, high: float = 1.0, label: str, number: Format = fraction, axis: Format = short,
    whisker: str = "95 % interval",
) -> Markup:  # fmt: skip
    """Horizontal bars from `low` with whiskers (`whisker` says what they are), marks and bands; a string among the rows is a heading."""
    scale = Scale(low, high)
    ticks = nice_ticks(low, high)
    drawn = [_heading(row) if isinstance(row, str) else _bar(row, scale, ticks, number) for row in rows]
    own = [row for row in rows if isinstance(row, Bar)]
    keys = [(f"mark {mark.style}", mark.label) for row in own for mark in row.marks]
    keys += [("band", band.label) for row in own for band in row.bands]
    if any(row.low is not None for row in own):
        keys.append(("whisker", whisker))
    return _rows_figure("bars", label, drawn, scale, ticks, axis, keys)


def forest(effects: Sequence[Effect], *, label: str, number: Format = signed, axis: Format = signed_short, keys: bool = True) -> Markup:
    """Differences as dots with intervals around a zero line, coloured by verdict; the axis is symmetric about what is shown."""
    values = [0.0]
    for effect in effects:
        values += [effect.value, *(v for v in (effect.low, effect.high) if v is not None)]
        values += [edge for band in effect.bands for edge in (band.low, band.high)]
    pad = 0.06 * ((max(values) - min(values)) or 0.01)
    scale = Scale(min(values) - pad, max(values) + pad)
    ticks = nice_ticks(scale.low, scale.high, 5)
    drawn, group = [], ""
    for effect in effects:
        if effect.group and effect.group != group:
            group = effect.group
            drawn.append(_heading(group))
        drawn.append(_effect(effect, scale, ticks, number))
    found = [(f"dot {tone}", words) for tone, words in _VERDICTS.items() if keys and any(e.tone == tone for e in effects)]
    found += [("band", band.label) for effect in effects for band in effect.bands]
    return _rows_figure("forest", label, drawn, scale, ticks, axis, found)


_VERDICTS = {"good": "interval above zero", "bad": "interval below zero", "flat": "interval holds zero, or none"}


def _rows_figure(
    kind: str, label: str, drawn: Iterable[Markup], scale: Scale, ticks: Sequence[float], axis: Format, keys: Iterable[tuple[str, str]]
) -> Markup:
    foot = Markup('<div class="row axis" aria-hidden="true"><div></div><svg height="18">{}</svg><div></div></div>').format(
        x_texts(scale, ticks, axis)
    )
    figure = '<figure class="chart rows {}" aria-label="{}">{}{}{}</figure>'
    return Markup(figure).format(kind, label, Markup("").join(drawn), foot, legend(keys))


def _heading(text: str) -> Markup:
    return Markup('<div class="row heading">{}</div>').format(text)


def _bar(row: Bar, scale: Scale, ticks: Sequence[float], number: Format) -> Markup:
    shape = '<rect class="bar {}" x="0" y="7" width="{}" height="16" rx="2"><title>{}</title></rect>'
    bar = Markup(shape).format(row.tone, scale.x(row.value), _words(row, number))
    line = '<line class="mark {0}" x1="{1}" x2="{1}" y1="2" y2="28"><title>{2}: {3}</title></line>'
    marks = [Markup(line).format(mark.style, scale.x(mark.value), mark.label, number(mark.value)) for mark in row.marks]
    return _row(row, bar, _whisker(row, scale, "", number), Markup("").join(marks), scale, ticks, number)


def _effect(effect: Effect, scale: Scale, ticks: Sequence[float], number: Format) -> Markup:
    zero = Markup('<line class="zero" x1="{0}" x2="{0}" y1="0" y2="100%"/>').format(scale.x(0))
    dot = Markup('<circle class="dot {}" cx="{}" cy="15" r="5"><title>{}</title></circle>')
    drawn = dot.format(effect.tone, scale.x(effect.value), _words(effect, number))
    return _row(effect, zero, _whisker(effect, scale, effect.tone, number), drawn, scale, ticks, number)


def _row(
    row: Bar, below: Markup, whisker: Markup, above: Markup, scale: Scale, ticks: Sequence[float], number: Format
) -> Markup:  # fmt: skip
    """A row's name, its drawing (grid and bands, then what lies below the whisker and above it) and its number."""
    grid = Markup("").join(Markup('<line class="grid" x1="{0}" x2="{0}" y1="0" y2="100%"/>').format(scale.x(tick)) for tick in ticks)
    shape = '<rect class="band" x="{}" y="3" width="{:.2f}%" height="24"><title>{}: {} to {}</title></rect>'
    for band in row.bands:
        width = 100 * max(0.004, scale(band.high) - scale(band.low))
        grid += Markup(shape).format(scale.x(band.low), width, band.label, number(band.low), number(band.high))
    small = Markup(" <small>{}</small>").format(row.note) if row.note else ""
    value = Markup("<b>{}</b>").format(number(row.value))
    if row.low is not None and row.high is not None:
        value += Markup(" <span>[{}, {}]</span>").format(number(row.low), number(row.high))
    shape = '<div class="row"><div class="name">{}{}</div><svg height="30" role="presentation">{}{}</svg><div class="num">{}</div></div>'
    return Markup(shape).format(row.label, small, grid, below + whisker + above, value)


def _words(row: Bar, number: Format) -> str:
    interval = "" if row.low is None or row.high is None else f", 95 % interval {number(row.low)} to {number(row.high)}"
    return f"{row.label}: {number(row.value)}{interval}"


def _whisker(row: Bar, scale: Scale, tone: str, number: Format) -> Markup:
    if row.low is None or row.high is None:
        return Markup("")
    shape = (
        '<g class="whisker {tone}"><title>{words}</title><line x1="{low}" x2="{high}" y1="15" y2="15"/>'
        '<line x1="{low}" x2="{low}" y1="11" y2="19"/><line x1="{high}" x2="{high}" y1="11" y2="19"/></g>'
    )
    return Markup(shape).format(tone=tone, words=_words(row, number), low=scale.x(row.low), high=scale.x(row.high))


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *, shades: Sequence[Sequence[float]], label: str,
    corner: str = "", number: Format = short, notes: Sequence[Sequence[str]] | None = None, diagonal: bool = False,
) -> Markup:  # fmt: skip
    """A table whose cells are shaded by `shades` (0 to 1), with `notes` below the numbers; `diagonal` tells hits from misses."""
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(_breakable(name)) for name in columns)
    body = Markup("")
    for i, name in enumerate(rows):
        cells = Markup("")
        for j, value in enumerate(values[i]):
            share = min(1.0, max(0.0, shades[i][j]))
            tone = "hit" if not diagonal or i == j else "miss"
            note = Markup("<small>{}</small>").format(notes[i][j]) if notes else ""
            cell = '<td class="{}" style="--shade:{:.0f}%" title="{} / {}: {}">{}{}</td>'
            cells += Markup(cell).format(tone, 4 + 56 * share, name, columns[j], number(value), number(value), note)
        body += Markup('<tr><th scope="row">{}</th>{}</tr>').format(_breakable(name), cells)
    table = (
        '<figure class="chart sideways" tabindex="0"><table class="heat" style="min-width:{}px" aria-label="{}">'
        '<thead><tr><th class="corner">{}</th>{}</tr></thead><tbody>{}</tbody></table></figure>'
    )
    return Markup(table).format(90 + 52 * len(columns), label, corner, head, body)


def _breakable(name: str) -> Markup:
    """A class's name that may go on in the next line after an underscore."""
    return escape(name).replace("_", Markup("_<wbr/>"))


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]], *, label: str) -> Markup:
    """A confusion matrix (rows: label, columns: prediction): counts, and below them and in the shade the share of the row."""
    totals = [sum(row) for row in counts]
    shares = [[count / total if total else 0.0 for count in row] for row, total in zip(counts, totals, strict=True)]
    notes = [[f"{share:.0%}" for share in row] for row in shares]
    corner = "label \N{DOWNWARDS ARROW} predicted \N{RIGHTWARDS ARROW}"
    return heat_map(
        labels, labels, counts, shades=shares, label=label, corner=corner, number=lambda n: f"{n:,.0f}", notes=notes, diagonal=True
    )  # fmt: skip
