"""The SYNTHETIC sample corpus: comments with a planted signal, so that the whole pipeline runs where no data is.

It is made here from a word list of invented people, places and groups, everyday Tagalog, Cebuano and English, and says nothing about real
people; every title starts with "[synthetic]". `{x}` stands for one of the invented people. Classes have the plan's proportions, about 8 %
of the labels are wrong, 1 % missing, and 3 % of the rows repeat an earlier one.

What real comments have and counts of words lack is planted too: in most rows the words of two labels stand side by side, and only their
order tells which one is meant (`CONSTRUCTIONS`). A linear model of words cannot tell there; an encoder that reads the order can. Because
of the wrong labels a perfect reader would come to an accuracy of about 0.92.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(text.split("; "))


PEOPLE = _phrases("Mayor Talahib; Gob. Amihan; Kon. Bayabas; Kap. Tikling; Sec. Habagat; Atty. Sampaguita")

# (title, weights of the sentiments negative, neutral, positive, weights of non_polarized, objective, partisan, share)
TITLES: tuple[tuple[str, tuple[float, float, float], tuple[float, float, float], float], ...] = (
    ("[synthetic] Mayor Talahib, nagbukas ng bagong palengke sa San Hilario", (0.5, 0.8, 2.8), (1.2, 0.6, 0.9), 1.0),
    ("[synthetic] Gob. Amihan at Kon. Bayabas, nagsagutan sa sesyon", (1.5, 0.5, 0.4), (0.3, 0.6, 1.5), 1.4),
    ("[synthetic] Walang pasok bukas dahil sa ulan, ayon sa kapitolyo", (0.5, 2.6, 0.8), (2.8, 0.9, 0.2), 0.9),
    ("[synthetic] Presyo ng bigas sa Isla Verdeño, tumaas ulit", (1.6, 0.7, 0.2), (0.9, 1.5, 0.9), 1.1),
    ("[synthetic] Survey: Amihan at Talahib, dikit sa botohan", (0.8, 1.0, 1.1), (0.3, 1.4, 1.5), 1.2),
    ("[synthetic] Sec. Habagat explains the 3.2 billion drainage budget", (1.2, 1.0, 0.4), (0.5, 3.2, 0.8), 0.9),
    ("[synthetic] Kap. Tikling, namigay og libreng libro sa mga bata", (0.3, 0.7, 3.6), (2.0, 0.4, 0.5), 0.7),
    ("[synthetic] Bag-ong terminal sa Santa Ligaya, wala pa mahuman", (1.7, 0.8, 0.2), (1.0, 1.2, 0.9), 0.9),
    ("[synthetic] Atty. Sampaguita files complaint against Kon. Bayabas", (1.3, 0.7, 0.6), (0.3, 1.3, 1.4), 1.0),
    ("[synthetic] Trapik sa Tulay ng Maharlika, aabutin ng tatlong buwan", (1.3, 1.3, 0.2), (2.2, 0.8, 0.4), 0.8),
    ("[synthetic] Rally of the Bagwis group draws thousands", (1.0, 0.5, 1.6), (0.2, 0.4, 1.8), 1.1),
    ("[synthetic] Schedule ng bakuna at libreng check-up ngayong linggo", (0.5, 2.2, 1.5), (2.8, 0.7, 0.2), 0.7),
)

SENTIMENT: tuple[tuple[str, ...], ...] = (
    _phrases(  # negative
        "walang kwenta; nakakadismaya; palpak; bulok ang sistema; nakakahiya; grabe ang pahirap; sayang ang buwis; pabaya; way "
        "pulos; maot kaayo; makaluod; kapoy na kaayo; useless; a disgrace; so disappointing; a total failure; sick of this; the "
        "worst; nakakainis; ang pangit; corrupt; a waste of money; they failed us; terrible service; this is shameful"
    ),
    _phrases(  # neutral
        "kailan po ito; saan po banda; anong oras; paano mag-apply; may update na ba; asa ni dapit; unsa nga adlaw; pila ang "
        "bayad; kinsa ang in charge; what time is it; where is this; is this confirmed; any update; tanong lang po; for "
        "information; kanus-a magsugod; following this; which office; who do we ask; when does it start; is there a form"
    ),
    _phrases(  # positive
        "salamat po; ang galing; magaling; ang galing ninyo; saludo ako; nakaka-proud; maayo kaayo; nindot kaayo; daghang salamat; "
        "congrats; well done; so proud; great job; thank you; sulit ang boto; maaasahan; masipag talaga; very inspiring; ang "
        "ganda; a big help; they did it right; excellent service; this is wonderful; maganda ang ginawa; i love this"
    ),
)

POLARIZATION: tuple[tuple[str, ...], ...] = (
    _phrases(  # non_polarized
        "ingat po tayo; good morning; maulan na naman; kumain na ba kayo; amping mong tanan; sana all; pa-shout out; kasama ang "
        "pamilya; my kids love it; weekend na; pauwi na ako; sakay ng tricycle; mainit dito; happy fiesta; kape muna; layo ra "
        "gyud; praying for everyone; miss ko na dyan; nice photo; see you at the plaza; my lola lives there"
    ),
    _phrases(  # objective
        "ayon sa ulat; batay sa datos; sumala sa report; according to the records; the budget is 3.2 billion; Section 5 of the "
        "ordinance; both sides have a point; tingnan ang resibo; check the source; kumpara noong nakaraang taon; the numbers "
        "show it; may audit report; ikumpara ang dalawa; 30 percent; it is in the minutes; the law allows it"
    ),
    _phrases(  # partisan
        "solid {x}; bayaran ang mga kritiko; {x} lang malakas; mga alipores ni {x}; iba ang {x} namin; basta {x} kami; kulto "
        "kayo; trolls na naman; kampo ni {x}; mga Bagwis talaga; Team Bagwis forever; ibagsak ang Lakambini; Lakambini pa rin; "
        "never again kay {x}; {x} for governor; kay {x} ta; mga bias na media; wake up people; {x} all the way"
    ),
)

# What sets two clauses against each other. `{said}` is what does not count: what others say, what was hoped for, what is denied.
# `{meant}` is
# what the writer means. The same words stand on both sides, so that only their order tells which is which.
_AGAINST = _phrases("{said} pero {meant}; {said} but {meant}; {meant} kahit {said}; {meant} although {said}")
_NEGATED = _phrases("hindi {said} kundi {meant}; {meant} at hindi {said}; not {said} but {meant}; {meant} and not {said}")
_QUOTED = _phrases(
    "they say {said}, in truth {meant}; in truth {meant}, they say {said}; sabi nila {said}, ang totoo {meant}; ang totoo {meant}, sabi "
    "nila {said}"
)
TWO_SIDED = {"against": _AGAINST, "negated": _NEGATED, "quoted": _QUOTED}

TROUBLES = _phrases(
    "tatlong oras sa pila; baha na naman; wala pa ring tubig; three years and still no road; brownout gabi-gabi; the roof leaks again"
)
"""What goes wrong. Behind praise it makes mockery of it; in front of praise it is what was mended."""

CREDIT = _phrases(
    "{hero} fixed the mess that {loser} made; {hero} cleaned up after {loser}; inayos ni {hero} ang sinira ni {loser}; giayo ni "
    "{hero} ang guba ni {loser}"
)
"""Praise or blame of the title's person: who fixed, who broke."""

SPELLINGS = {
    "salamat": ("slmt", "salamats", "tnx"),
    "hindi": ("di", "hnd", "hinde"),
    "kaayo": ("kaau", "kau", "kaayu"),
    "galing": ("gling", "galeng"),
    "talaga": ("tlga", "tlaga"),
    "naman": ("nman", "nmn"),
    "walang": ("wlang", "wla"),
    "ako": ("aq",),
    "thank you": ("thank u", "ty"),
    "congrats": ("congratz", "grats"),
    "great": ("gr8",),
    "pero": ("pro", "peru"),
    "ganda": ("gnda",),
    "sayang": ("syang",),
    "palpak": ("palpack", "plpak"),
    "kailan": ("kelan",),
    "saan": ("san",),
    "report": ("rprt",),
    "people": ("ppl",),
    "disappointing": ("dissapointing",),
    "solid": ("sulid",),
    "forever": ("4ever",),
}
"""How some words are also written."""

FILLER = _phrases(
    "ang; mga; sa; na; lang; naman; dito; kami; tayo; sila; bukas; araw; gabi; bata; nanay; tao; tubig; ilaw; gyud; bitaw; naa; "
    "diri; karon; ugma; balay; dalan; the; and; for; with; people; really; maybe; again; today; tomorrow; road; market; school; "
    "hospital; water; light; money; job; line; town; city; news; post; page; video; story; place; time; work; still; just; "
    "because; about; after; before; here; there; everyone; raw; daw; nga; eh; ha; kuya; ate; bes; guys; oo; hala"
)

EMOJI = (
    ("😡", "🤮", "👎", "💩", "😤"),
    ("🤔", "👀", "📌", "🙋"),
    ("\u2764\ufe0f", "👏", "🙏", "🎉", "💪"),
    ("😂", "🤣", "🇵🇭", "✨"),
)
"""Emoji that lean negative, neutral, positive, and the ones that anyone uses."""


DEFAULT_ROWS = 3000
ROWS_PER_CHUNK = 1000
"""Rows with a random stream of their own: `sample:1000` is the beginning of `sample:3000`, and memory stays flat."""

LABELS = {"sentiment": ("negative", "neutral", "positive"), "polarization": ("non_polarized", "objective", "partisan")}
COLUMNS = {"sentiment": "Final Sentiment", "polarization": "Final Polarization"}

JOINT = np.array([[673, 128, 3332], [998, 227, 649], [271, 50, 647]]) / 6975
"""Share of each sentiment x polarization stratum: those of the plan's training rows."""

NOISE, MISSING, REPEATED = 0.08, 0.01, 0.03
OWN = 0.92
"""Chance that a clause says a word of its label."""
LEANING = 0.65
"""How far the titles' class shares differ: 0 not at all."""

CONSTRUCTIONS = {"plain": 0.28, "against": 0.40, "negated": 0.12, "quoted": 0.12, "mocked": 0.04, "credit": 0.04}
"""Share of the rows by what decides their labels.

plain: the words alone. against: the clause that the writer stands by, before `kahit` or behind `pero`. negated: the clause outside the
negation's
scope. quoted: what the writer says and not what others say. mocked: praise before what goes wrong is sarcasm, praise after it is sincere.
credit: whether the title's person mends or breaks, which only the order of two names tells.
"""


SAMPLE_COLUMNS = ("row_id", "Title", "Comment", *COLUMNS.values())
"""Columns of `sample_blocks`: those that the configuration expects by default."""


def sample_blocks(rows: int, seed: int = 0) -> Iterator[pa.Table]:
    """The corpus as a file would hold it: text columns, labels by name."""
    for chunk, first in enumerate(range(0, rows, ROWS_PER_CHUNK)):
        titles, comments, labels = _chunk(np.random.default_rng([seed, chunk]))
        size = min(ROWS_PER_CHUNK, rows - first)
        row_ids = [str(first + i) for i in range(size)]
        columns = {"row_id": row_ids, "Title": titles[:size], "Comment": comments[:size]}
        table = {name: pa.array(values, pa.large_string()) for name, values in columns.items()}
        for index, (task, names) in enumerate(LABELS.items()):
            values = [names[label] if label >= 0 else None for label in labels[:size, index]]
            table[COLUMNS[task]] = pa.array(values, pa.large_string())
        yield pa.table(table)


def sample_comments(rows: int, seed: int = 0) -> pa.Table:
    """Canonical comments table (row_id, title, comment, sentiment, polarization) of `rows` synthetic rows; the same for the same seed."""
    raw = pa.concat_tables(list(sample_blocks(rows, seed))) if rows else None
    columns: dict[str, pa.Array] = {}
    for name, column in zip(("row_id", "title", "comment"), SAMPLE_COLUMNS, strict=False):
        columns[name] = raw[column].combine_chunks() if raw else pa.array([], pa.large_string())
    for task, names in LABELS.items():
        values = raw[COLUMNS[task]].to_pylist() if raw else []
        columns[task] = pa.array([None if value is None else names.index(value) for value in values], pa.int8())
    return pa.table(columns)


def _chunk(rng: np.random.Generator) -> tuple[list[str], list[str], np.ndarray]:
    """Titles, comments and labels (-1 where missing) of one chunk."""
    strata = rng.choice(JOINT.size, size=ROWS_PER_CHUNK, p=JOINT.ravel())
    true = np.stack(np.divmod(strata, JOINT.shape[1]), axis=1)
    titles = [_title(rng, *row) for row in true]
    comments = [_comment(rng, title, *row) for title, row in zip(titles, true, strict=True)]
    labels = _noisy(rng, true)
    for row in np.flatnonzero(rng.random(ROWS_PER_CHUNK) < REPEATED):
        if row:
            earlier = int(rng.integers(row))
            titles[row], comments[row], labels[row] = titles[earlier], _retyped(rng, comments[earlier]), labels[earlier]
    return titles, comments, labels


def _noisy(rng: np.random.Generator, true: np.ndarray) -> np.ndarray:
    """Labels as a tired annotator gives them: some guessed, `NOISE` of all wrong, some missing."""
    labels = true.copy()
    for task in range(2):
        share = JOINT.sum(axis=1 - task)
        # an annotator who guesses is right by chance with probability sum(share^2); guessing by share leaves the shares alone
        guessed = np.flatnonzero(rng.random(len(true)) < NOISE / (1 - np.square(share).sum()))
        labels[guessed, task] = rng.choice(len(share), size=len(guessed), p=share)
        # a row never misses both: it would train nothing
        missing = (rng.random(len(true)) < MISSING) & (labels.min(axis=1) >= 0)
        labels[missing, task] = -1
    return labels


def _title(rng: np.random.Generator, sentiment: int, polarization: int) -> str:
    weights = np.array([(s[sentiment] * p[polarization]) ** LEANING * share for _, s, p, share in TITLES])
    return TITLES[rng.choice(len(weights), p=weights / weights.sum())][0]


def _comment(rng: np.random.Generator, title: str, sentiment: int, polarization: int) -> str:
    kind = str(rng.choice(list(CONSTRUCTIONS), p=list(CONSTRUCTIONS.values())))
    text = ""
    if kind == "mocked" and sentiment != 1:
        text = _mocked(rng, sentiment, polarization)
    elif kind == "credit" and sentiment != 1:
        text = _credit(rng, title, sentiment, polarization)
    elif kind != "plain":
        text = _two_sided(rng, TWO_SIDED.get(kind, TWO_SIDED["against"]), sentiment, polarization)
    text = text or _clause(rng, sentiment, polarization)
    while "{x}" in text:
        text = text.replace("{x}", _pick(rng, PEOPLE), 1)
    return _decorated(rng, _respelled(rng, text), sentiment)


def _clause(rng: np.random.Generator, sentiment: int, polarization: int) -> str:
    """What someone says who means these labels."""
    parts = [_pick(rng, SENTIMENT[sentiment])] if rng.random() < OWN else []
    if not parts or rng.random() < OWN:
        parts.append(_pick(rng, POLARIZATION[polarization]))
    if rng.random() < 0.5:
        parts.reverse()
    return f"{_filler(rng)} {_pick(rng, (' ', ', ', ' at ', ' and ')).join(parts)}"


def _two_sided(rng: np.random.Generator, patterns: tuple[str, ...], sentiment: int, polarization: int) -> str:
    """A clause that counts, and one with other labels of both tasks that does not; the pattern tells which."""
    other = [(label + int(rng.integers(1, 3))) % 3 for label in (sentiment, polarization)]
    pattern = _pick(rng, patterns)
    return pattern.replace("{said}", _clause(rng, *other)).replace("{meant}", _clause(rng, sentiment, polarization))


def _mocked(rng: np.random.Generator, sentiment: int, polarization: int) -> str:
    praise, trouble = _clause(rng, 2, polarization), _pick(rng, TROUBLES)
    return f"{praise}... ngayon {trouble}" if sentiment == 0 else f"{trouble}... ngayon {praise}"


def _credit(rng: np.random.Generator, title: str, sentiment: int, polarization: int) -> str:
    """Nothing where the title names nobody."""
    named = [person for person in PEOPLE if person.split()[-1] in title]
    if not named:
        return ""
    own = _pick(rng, tuple(named))
    other = _pick(rng, tuple(person for person in PEOPLE if person not in named))
    hero, loser = (own, other) if sentiment == 2 else (other, own)
    said = _pick(rng, CREDIT).replace("{hero}", hero).replace("{loser}", loser)
    return f"{said} {_filler(rng)} {_pick(rng, POLARIZATION[polarization])}"


def _respelled(rng: np.random.Generator, text: str) -> str:
    """Some words as people also write them."""
    for word, others in SPELLINGS.items():
        if word in text and rng.random() < 0.2:
            text = text.replace(word, _pick(rng, others))
    return text


def _pick(rng: np.random.Generator, options: tuple[str, ...] | str) -> str:
    return options[int(rng.integers(len(options)))]


def _filler(rng: np.random.Generator) -> str:
    return " ".join(_pick(rng, FILLER) for _ in range(int(rng.integers(1, 3))))


def _decorated(rng: np.random.Generator, text: str, sentiment: int) -> str:
    """The way people type: emoji, capitals, drawn-out vowels, missing capitals, repeated marks."""
    if rng.random() < 0.15:
        leaning = sentiment if rng.random() < 0.6 else 3
        text += " " + _pick(rng, EMOJI[leaning]) * int(rng.integers(1, 4))
    style = rng.random()
    if style < 0.07:
        return text.upper()
    if style < 0.5:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.1:
        vowels = [i for i, letter in enumerate(text) if letter in "aeiou"]
        at = vowels[int(rng.integers(len(vowels)))] if vowels else 0
        text = text[:at] + text[at] * int(rng.integers(3, 6)) + text[at + 1 :]
    if rng.random() < 0.3:
        text += _pick(rng, ("!", "!!!", "?", "...", "."))
    return text


def _retyped(rng: np.random.Generator, comment: str) -> str:
    """A repeat: as it was, with other spaces and capitals (the same when normalised), or with a mark more (nearly the same)."""
    return (comment, f"{comment.lower()}  ", comment + "!")[int(rng.integers(3))]
