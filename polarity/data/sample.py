"""The SYNTHETIC sample corpus: comments with a planted signal, so that the whole pipeline runs where no data is.

It is made here from a word list and says nothing about real people; every title starts with "[synthetic]". Classes have
the plan's proportions, about 8 % of the labels are wrong, 1 % missing, and 3 % of the rows repeat an earlier one.

What real comments have and counts of words lack is planted too: in most rows the words of two labels stand side by side, and only their
order tells which one is meant (`CONSTRUCTIONS`). A linear model of words cannot tell there; an encoder that reads the order can. Because
of the
wrong labels a perfect reader would come to an accuracy of about 0.92.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from polarity.data import sample_words as words

DEFAULT_ROWS = 3000
ROWS_PER_CHUNK = 1000
"""Rows with a random stream of their own: `sample:1000` is the beginning of `sample:3000`, and memory stays flat."""

LABELS = {
    "sentiment": ("negative", "neutral", "positive"),
    "polarization": ("non_polarized", "objective", "partisan"),
}
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


def sample_columns() -> tuple[str, ...]:
    """Columns of `sample_blocks`: those that the configuration expects by default."""
    return ("row_id", "Title", "Comment", *COLUMNS.values())


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
    for name, column in zip(("row_id", "title", "comment"), sample_columns(), strict=False):
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
    weights = np.array([(s[sentiment] * p[polarization]) ** LEANING * share for _, s, p, share in words.TITLES])
    return words.TITLES[rng.choice(len(weights), p=weights / weights.sum())][0]


def _comment(rng: np.random.Generator, title: str, sentiment: int, polarization: int) -> str:
    kind = str(rng.choice(list(CONSTRUCTIONS), p=list(CONSTRUCTIONS.values())))
    text = ""
    if kind == "mocked" and sentiment != 1:
        text = _mocked(rng, sentiment, polarization)
    elif kind == "credit" and sentiment != 1:
        text = _credit(rng, title, sentiment, polarization)
    elif kind != "plain":
        text = _two_sided(rng, words.TWO_SIDED.get(kind, words.TWO_SIDED["against"]), sentiment, polarization)
    text = text or _clause(rng, sentiment, polarization)
    while "{x}" in text:
        text = text.replace("{x}", _pick(rng, words.PEOPLE), 1)
    return _decorated(rng, _respelled(rng, text), sentiment)


def _clause(rng: np.random.Generator, sentiment: int, polarization: int) -> str:
    """What someone says who means these labels."""
    parts = [_pick(rng, words.SENTIMENT[sentiment])] if rng.random() < OWN else []
    if not parts or rng.random() < OWN:
        parts.append(_pick(rng, words.POLARIZATION[polarization]))
    if rng.random() < 0.5:
        parts.reverse()
    return f"{_filler(rng)} {_pick(rng, (' ', ', ', ' at ', ' and ')).join(parts)}"


def _two_sided(rng: np.random.Generator, patterns: tuple[str, ...], sentiment: int, polarization: int) -> str:
    """A clause that counts, and one with other labels of both tasks that does not; the pattern tells which."""
    other = [(label + int(rng.integers(1, 3))) % 3 for label in (sentiment, polarization)]
    pattern = _pick(rng, patterns)
    return pattern.replace("{said}", _clause(rng, *other)).replace("{meant}", _clause(rng, sentiment, polarization))


def _mocked(rng: np.random.Generator, sentiment: int, polarization: int) -> str:
    praise, trouble = _clause(rng, 2, polarization), _pick(rng, words.TROUBLES)
    return f"{praise}... ngayon {trouble}" if sentiment == 0 else f"{trouble}... ngayon {praise}"


def _credit(rng: np.random.Generator, title: str, sentiment: int, polarization: int) -> str:
    """Nothing where the title names nobody."""
    named = [person for person in words.PEOPLE if person.split()[-1] in title]
    if not named:
        return ""
    own = _pick(rng, tuple(named))
    other = _pick(rng, tuple(person for person in words.PEOPLE if person not in named))
    hero, loser = (own, other) if sentiment == 2 else (other, own)
    said = _pick(rng, words.CREDIT).replace("{hero}", hero).replace("{loser}", loser)
    return f"{said} {_filler(rng)} {_pick(rng, words.POLARIZATION[polarization])}"


def _respelled(rng: np.random.Generator, text: str) -> str:
    """Some words as people also write them."""
    for word, others in words.SPELLINGS.items():
        if word in text and rng.random() < 0.2:
            text = text.replace(word, _pick(rng, others))
    return text


def _pick(rng: np.random.Generator, options: tuple[str, ...] | str) -> str:
    return options[int(rng.integers(len(options)))]


def _filler(rng: np.random.Generator) -> str:
    return " ".join(_pick(rng, words.FILLER) for _ in range(int(rng.integers(1, 3))))


def _decorated(rng: np.random.Generator, text: str, sentiment: int) -> str:
    """The way people type: emoji, capitals, drawn-out vowels, missing capitals, repeated marks."""
    if rng.random() < 0.15:
        leaning = sentiment if rng.random() < 0.6 else 3
        text += " " + _pick(rng, words.EMOJI[leaning]) * int(rng.integers(1, 4))
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
