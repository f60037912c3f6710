"""What all charts share: number formats, scales, round ticks and legends."""

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
