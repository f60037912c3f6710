"""Charts with two linear axes: lines and dots."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

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
class Point:
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
    points: Sequence[Point]
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
    series = [
        Series(s.label, [p for p in s.points if math.isfinite(p.x) and math.isfinite(p.y)], s.tone, s.dashed, s.dots, s.line)
        for s in series
    ]
    points = [point for each in series for point in each.points]
    across = Axis(x.label, *_tight(x, [p.x for p in points])).scale([])
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
