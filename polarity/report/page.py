"""The page that every report is: one HTML file with its styles and charts inside, no script, nothing loaded from anywhere.

Templates are escaped by jinja2; what is already markup is a `Markup`. A content security policy in the page forbids scripts and
every request, so that even a hole in the escaping could not act.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from polarity.errors import PolarityError


class ReportError(PolarityError):
    """A report that would not be true, or cannot be made."""


@dataclass(frozen=True)
class PageSection:
    """A part of the page with its own heading and entry in the contents; `lead` is one line under the heading."""

    anchor: str
    title: str
    body: Markup
    lead: str = ""


@cache
def environment() -> Environment:
    """The templates of this package; HTML is escaped, a missing variable is an error, Markdown (cards) is left as it is."""
    return Environment(
        loader=PackageLoader("polarity.report", "templates"),
        autoescape=lambda name: name is None or not name.endswith((".md", ".css")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def fragment(template: str, **context: Any) -> Markup:
    """A template of this package's templates/ folder, filled; safe to put into a page."""
    return Markup(environment().get_template(template).render(**context))


def render_page(
    *,
    title: str,
    kind: str,
    headline: Markup | str,
    sections: Sequence[PageSection],
    facts: Iterable[tuple[str, str]] = (),
    banner: str | None = None,
    notices: Iterable[str] = (),
    footer: str = "",
) -> str:
    """The whole page: `kind` and `title` above, the `headline` (verdict) first, `facts` as a line of name and value, then sections.

    `banner` is shown in big letters above everything (such as that the data is synthetic); `notices` are warnings below the headline.
    """
    content = {"title": title, "kind": kind, "headline": headline, "banner": banner, "footer": footer}
    lists = {"sections": list(sections), "facts": list(facts), "notices": list(notices)}
    return environment().get_template("page.html").render(**content, **lists)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Markup | str]], *, numeric: Iterable[int] = (), caption: str = "", narrow: bool = False
) -> Markup:
    """A table, on a phone a list of its rows; `numeric` are the indices of right-aligned columns, `caption` stands above."""
    return fragment(
        "table.html", columns=columns, rows=list(rows), numeric=frozenset(numeric), caption=caption, narrow=narrow
    )  # fmt: skip


def verdict_pill(words: str) -> Markup:
    """A verdict as a coloured word: met, gain, above, helps are good; missed, loss, below, hurts are bad; all else is neither."""
    tone = _TONES.get(words.split(" ")[0].split(",")[0], "flat")
    return Markup('<span class="pill {}">{}</span>').format(tone, words)


_TONES = {
    **dict.fromkeys(("met", "gain", "above", "helps", "finished"), "good"),
    **dict.fromkeys(("missed", "loss", "below", "hurts", "failed"), "bad"),
}


def details(summary: str, body: Markup, *, opened: bool = False) -> Markup:
    """Folded content with a line to open it; browsers that can print it unfolded."""
    return Markup("<details{}><summary>{}</summary>{}</details>").format(Markup(" open") if opened else "", summary, body)


def columns(*parts: Markup) -> Markup:
    """Parts side by side where the page is wide enough, below one another on a phone."""
    return Markup('<div class="columns">{}</div>').format(Markup("").join(Markup("<div>{}</div>").format(part) for part in parts))
