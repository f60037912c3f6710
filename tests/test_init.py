"""`polarity init` on made files: the configuration that it writes reads the rows; what it cannot decide it says."""

import csv
import json
import random
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from polarity.cli import app
from polarity.data.split import load_splits
from polarity.resolve import resolve
from polarity.workflows.init import Wanted, init

N = 120
WORDS = [
    "the",
    "road",
    "is",
    "open",
    "again",
    "today",
    "people",
    "say",
    "water",
    "school",
    "market",
    "light",
    "news",
    "town",
    "money",
    "family",
    "lunch",
    "really",
    "nothing",
    "new",
    "bata",
    "tubig",
]
_DRAW = random.Random(0)
TEXTS = [" ".join(_DRAW.choices(WORDS, k=12)) for _ in range(N)]
TITLES = [f"Mayor opens project number {i % 7} in town" for i in range(N)]
LIKES = [i % 6 for i in range(N)]
MOODS = [("negative", "neutral", "positive")[i % 3] for i in range(N)]
NAMES = ["negative", "neutral", "positive"]


def table(head: Sequence[str], *columns: Iterable[Any], sep: str = ",", encoding: str = "utf-8") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("w", encoding=encoding, newline="") as file:
            csv.writer(file, delimiter=sep).writerows([head, *zip(*columns, strict=True)])

    return write


def parquet(**columns: Any) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path)


def lines(rows: list[dict[str, Any]]) -> Callable[[Path], None]:
    return lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8") and None


def book(head: Sequence[str], *columns: Iterable[Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        workbook = openpyxl.Workbook()
        for row in [list(head), *map(list, zip(*columns, strict=True))]:
            workbook.active.append(row)
        workbook.save(path)

    return write


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


FRENCH = [("négatif", "neutre", "positif")[i % 3] for i in range(N)]
SHOUTED = [mood.upper() if i % 5 else f" {mood} " for i, mood in enumerate(MOODS)]
SLIPPED = ["negatve" if i in (3, 9) else mood for i, mood in enumerate(MOODS)]
DECOMPOSED = [nfd(word) if i % 2 else word for i, word in enumerate(FRENCH)]
SORTED_FRENCH = ["neutre", "négatif", "positif"]
FILES: dict[str, tuple[Callable[[Path], None], dict[str, list[str]]]] = {
    "plain.csv": (table(["Title", "Comment", "Sentiment"], TITLES, TEXTS, MOODS), {"sentiment": NAMES}),
    "semicolon.csv": (table(["text", "label"], TEXTS, MOODS, sep=";"), {"label": NAMES}),
    "tab.tsv": (table(["id", "text", "label"], range(N), TEXTS, MOODS, sep="\t"), {"label": NAMES}),
    "latin.csv": (table(["texto", "mood"], [f"{t} niño corazón" for t in TEXTS], MOODS, encoding="cp1252"), {"mood": NAMES}),
    "bom.csv": (table(["text", "label"], TEXTS, MOODS, encoding="utf-8-sig"), {"label": NAMES}),
    "utf16.csv": (table(["text", "label"], TEXTS, MOODS, encoding="utf-16"), {"label": NAMES}),
    "case.csv": (table(["tweet", "sentiment"], TEXTS, SHOUTED), {"sentiment": NAMES}),
    "stars.csv": (table(["review", "stars"], TEXTS, [i % 5 + 1 for i in range(N)]), {"stars": list("12345")}),
    "floats.csv": (table(["text", "label"], TEXTS, [("0.0", "1.0", "2.0", "")[i % 4] for i in range(N)]), {"label": list("012")}),
    "slips.csv": (table(["text", "label"], TEXTS, SLIPPED), {"label": NAMES}),
    "nan.csv": (
        table(["Comment", "Final Sentiment", "toxic"], TEXTS, MOODS, ["nan" if i % 3 == 0 else ("yes", "no")[i % 2] for i in range(N)]),
        {"sentiment": NAMES, "toxic": ["no", "yes"]},
    ),
    "commas.csv": (table(["text", "label"], TEXTS, [f"{m}, [mood]" for m in MOODS]), {"label": [f"{name}, [mood]" for name in NAMES]}),
    "nested.jsonl": (lines([{"body": t, "stance": m, "meta": {"a": 1}} for t, m in zip(TEXTS, MOODS, strict=True)]), {"stance": NAMES}),
    "word.csv": (table(["text", "label"], [f"{WORDS[i % 20]}{i % 80}" for i in range(N)], MOODS), {"label": NAMES}),
    "index.csv": (table(["", "text", "label"], range(N), TEXTS, MOODS), {"label": NAMES}),
    "split.csv": (table(["text", "label", "split"], TEXTS, MOODS, (["train"] * 7 + ["validation"] * 2 + ["test"]) * 12), {"label": NAMES}),
    "likes.csv": (
        table(["date", "user", "body", "likes", "category"], ["2026-01-01"] * N, [f"u{i % 9}" for i in range(N)], TEXTS, LIKES, MOODS),
        {"category": NAMES},
    ),
    "bool.parquet": (parquet(content=TEXTS, is_toxic=pa.array([i % 2 == 0 for i in range(N)])), {"is_toxic": ["false", "true"]}),
    "two.parquet": (
        parquet(comment_id=[f"c{i}" for i in range(N)], headline=TITLES, reply=TEXTS, stance=pa.array(MOODS).dictionary_encode(),
                emotion=[("joy", "anger", None)[i % 3] for i in range(N)]),
        {"stance": NAMES, "emotion": ["anger", "joy"]},
    ),
    "lines.jsonl": (lines([{"text": t, "label": m} for t, m in zip(TEXTS, MOODS, strict=True)]), {"label": NAMES}),
    "ints.jsonl": (lines([{"message": t, "class": i % 3 if i % 10 else None} for i, t in enumerate(TEXTS)]), {"class": list("012")}),
    "book.xlsx": (book(["Title", "Comment", "Sentiment"], TITLES, TEXTS, MOODS), {"sentiment": NAMES}),
    "rating.xlsx": (book(["text", "rating"], TEXTS, [i % 4 + 1 for i in range(N)]), {"rating": list("1234")}),
    "quoted.csv": (table(["text", "label"], [f"{t}; and, more" for t in TEXTS], MOODS, sep=";"), {"label": NAMES}),
    "dev.csv": (table(["text", "label", "set"], TEXTS, MOODS, (["train"] * 7 + ["dev"] * 2 + ["test"]) * 12), {"label": NAMES}),
    "many.csv": (table(["text", "topic"], TEXTS, [f"t{i % 15:02}" for i in range(N)]), {"topic": [f"t{i:02}" for i in range(15)]}),
    "nfd.csv": (table(["text", nfd("étiquette label")], TEXTS, DECOMPOSED), {"étiquette_label": SORTED_FRENCH}),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_it_writes_reads_the_rows(name: str, tmp_path: Path) -> None:
    write, labels = FILES[name]
    write(tmp_path / name)
    done = CliRunner().invoke(
        app, ["init", str(tmp_path / name), "--yes", "--out", str(tmp_path / "x.yaml"), "--encoder", "offline:minilm"]
    )
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    config = resolve("small", tmp_path / "x.yaml").config
    found = {unicodedata.normalize("NFC", task): [unicodedata.normalize("NFC", x) for x in names] for task, names in config.labels.items()}
    assert found == labels
    assert (config.data.title_column is not None) == (name in ("plain.csv", "two.parquet", "book.xlsx"))
    splits = load_splits(config.data, lambda _: None)
    assert sum(part.num_rows for part in splits.parts.values()) >= 0.7 * N


@pytest.mark.parametrize(
    ("head", "columns", "said"),
    [
        (["text", "user"], [TEXTS, [f"u{i}" for i in range(N)]], "Give --label"),
        (["text", "label"], [TEXTS, ["positive"] * N], "one value only, and so nothing to learn: label"),
        ([TEXTS[0], "neutral"], [TEXTS, MOODS], "the first line seems to be a row"),
        (["a", "b"], [[i % 3 for i in range(N)], [i % 2 for i in range(N)]], "Give --text"),
    ],
)
def test_what_it_cannot_decide_is_told(head: list[str], columns: list[list[Any]], said: str, tmp_path: Path) -> None:
    table(head, *columns)(tmp_path / "x.csv")
    done = CliRunner().invoke(app, ["init", str(tmp_path / "x.csv"), "--yes", "--out", str(tmp_path / "x.yaml")])
    assert said in str(done.exception) and not (tmp_path / "x.yaml").exists()


def test_best_takes_what_it_writes(tmp_path: Path) -> None:
    table(["body", "mood"], TEXTS, MOODS)(tmp_path / "x.csv")
    assert CliRunner().invoke(app, ["init", str(tmp_path / "x.csv"), "--yes", "--out", str(tmp_path / "x.yaml")]).exit_code == 0
    done = CliRunner().invoke(app, ["best", str(tmp_path / "x.yaml"), "--encoder", "none", "--time", "5m", "--dry-run"])
    assert done.exit_code == 0 and f"{N} labelled rows" in done.output, f"{done.output}{done.exception}"
    (tmp_path / "y.yaml").write_text("train: {seed: 1}")
    assert "as data.source in the YAML file" in str(CliRunner().invoke(app, ["best", str(tmp_path / "y.yaml"), "--dry-run"]).exception)


def test_columns_that_are_left_aside_are_told(tmp_path: Path) -> None:
    table(["text", "label", "split", "ok"], TEXTS, MOODS, ["train", "test"] * 60, LIKES)(tmp_path / "x.csv")
    shown = CliRunner().invoke(app, ["init", str(tmp_path / "x.csv"), "--yes", "--out", str(tmp_path / "x.yaml")]).output
    assert "split holds test and train rows only" in shown and "ok: few values that repeat; if they are labels" in shown
    assert "bad_rows: error" in (tmp_path / "x.yaml").read_text()


def test_all_problems_at_once_and_wrong_labels_with_counts(tmp_path: Path) -> None:
    moods = ["negatve"] * 3 + ["zzz"] * 2 + ["???"] * 6 + MOODS[11:]
    table(["text", "label"], ["", "", *TEXTS[2:]], moods)(tmp_path / "x.csv")
    shown = CliRunner().invoke(app, ["init", str(tmp_path / "x.csv"), "--yes", "--out", str(tmp_path / "x.yaml")]).output
    for words in (
        "'negatve'",
        "3 rows",
        "a slip for 'negative'?",
        "'zzz'",
        "fewer than 5 rows",
        "'???'",
        "a mark for a missing label?",
        "2 rows have no text",
    ):
        assert words in shown


def test_it_asks_short_questions_and_takes_what_is_answered(tmp_path: Path) -> None:
    table(["body", "headline", "mood"], TEXTS, TITLES, MOODS)(tmp_path / "x.csv")
    asked, said = list[str](), list[str]()

    def answer(question: str, default: str) -> str:
        asked.append(f"{question} [{default}]: ")
        return "-" if "title" in question else default

    init(str(tmp_path / "x.csv"), tmp_path / "x.yaml", Wanted(), encoder="offline:minilm", overwrite=False, ask=answer, say=said.append)
    assert said[0].startswith("Columns: body, headline, mood. ") and max(map(len, asked)) <= 80
    assert resolve("small", tmp_path / "x.yaml").config.data.title_column is None


def test_nothing_is_written_over_or_asked_of_nobody(tmp_path: Path) -> None:
    table(["text", "label"], TEXTS, MOODS)(tmp_path / "x.csv")
    (tmp_path / "x.yaml").write_text("mine")
    done = CliRunner().invoke(app, ["init", str(tmp_path / "x.csv"), "--yes", "--out", str(tmp_path / "x.yaml")])
    assert "--overwrite" in str(done.exception) and (tmp_path / "x.yaml").read_text() == "mine"
    assert "--yes" in str(CliRunner().invoke(app, ["init", str(tmp_path / "x.csv")]).exception)


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_labels_in_lists_are_told_as_such(name: str, tmp_path: Path) -> None:
    rows = [{"text": text, "label": [mood]} for text, mood in zip(TEXTS, MOODS, strict=True)]
    lines(rows)(tmp_path / name) if name == "x.jsonl" else pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    done = CliRunner().invoke(app, ["init", str(tmp_path / name), "--yes", "--out", str(tmp_path / "x.yaml")])
    assert "columns of objects or lists are left out: label" in done.output
    assert "if label holds the labels: write one label a row, as text" in str(done.exception) and not (tmp_path / "x.yaml").exists()


def test_a_file_that_ends_in_a_fault_is_not_called_empty(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label\n" + "".join(f"{t},{m}\n" for t, m in zip(TEXTS, MOODS, strict=True)) + "bad, row, here\n")
    done = CliRunner().invoke(app, ["init", str(tmp_path / "x.csv"), "--yes", "--out", str(tmp_path / "x.yaml")])
    assert f"line {N + 2}: expected 2 columns" in str(done.exception) and "no rows" not in str(done.exception)
