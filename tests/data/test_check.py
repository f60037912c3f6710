"""The check counts what is there; worked by hand on a file of a dozen rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from polarity.config import DataConfig, SplitConfig
from polarity.data.check import check_source, render, shown

HEADER = "row_id,Title,Comment,Final Sentiment,Final Polarization\n"
LONG = "matagal na naming hinihintay ang tulay na yan, sana matapos na bago mag-ulan"
ROWS = [
    ("a", "A", "salamat po", "positive", "partisan"),
    ("b", "A", "Salamat  po", "negative", "partisan"),  # the same as a when normalised, and labelled otherwise
    ("c", "A", "salamat po", "positive", "partisan"),  # the same as a
    ("d", "B", "salamat po", "neutral", ""),
    ("e", "B", f'"{LONG}"', "neutral", "objective"),
    ("f", "C", f'"{LONG}!"', "neutral", "objective"),  # near e
    ("g", "C", " ", "neutral", "objective"),
    ("h", "C", "bulok", "negativ", "partisan"),
    ("i", "C", "bulok na", "", ""),
    ("e", "C", "e again", "negative", "non_polarized"),
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "x.csv"
    path.write_text(HEADER + "".join(",".join(row) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


def checked(source: str | dict[str, str], **options: Any) -> dict[str, Any]:
    check = check_source(source, DataConfig(**options))
    assert json.loads(json.dumps(check)) == check
    return check


def test_counts_by_hand(path: str) -> None:
    check = checked(path)
    assert (check["rows"], check["good_rows"]) == (10, 7)
    assert check["tasks"]["sentiment"] == {"classes": {"negative": 2, "neutral": 3, "positive": 2}, "missing": 0}
    assert check["tasks"]["polarization"] == {"classes": {"non_polarized": 1, "objective": 2, "partisan": 3}, "missing": 1}
    joint = {tuple(cell["labels"].values()): cell["rows"] for cell in check["joint"]}
    assert joint == {
        ("negative", "non_polarized"): 1,
        ("negative", "partisan"): 1,
        ("neutral", "objective"): 2,
        ("neutral", None): 1,
        ("positive", "partisan"): 2,
    }
    assert [(each["title"], each["rows"]) for each in check["titles"]["most"]] == [("A", 3), ("B", 2), ("C", 2)]
    characters = check["lengths"]["comment_characters"]
    assert (characters["min"], characters["median"], characters["max"]) == (7, 10, len(LONG) + 1)


def test_bad_rows_are_all_listed_by_line(path: str) -> None:
    check = checked(path)
    assert check["bad_rows"]["count"] == 3
    assert check["bad_rows"]["reasons"] == {"empty comment": 1, "unknown label": 1, "no label": 1}
    assert [row["place"] for row in check["bad_rows"]["rows"]] == ["line 8", "line 9", "line 10"]
    assert checked(path, bad_rows="drop")["good_rows"] == 8, "as in training, a bad label of one task does not cost the other's good one"
    assert check["duplicate_ids"] == {"count": 1, "ids": [{"row_id": "e", "places": ["line 6", "line 11"]}]}


def test_duplicates_and_conflicts(path: str) -> None:
    check = checked(path)
    assert check["duplicates"]["exact"] == {"groups": 1, "rows": 2, "examples": [["a", "c"]]}
    assert check["duplicates"]["normalised"] == {"groups": 1, "rows": 3, "examples": [["a", "b", "c"]]}
    assert check["duplicates"]["near"] == {"groups": 1, "rows": 2, "examples": [["e", "f"]]}
    conflict = {"row_ids": ["a", "b", "c"], "rows": 3, "comment": "salamat po", "labels": {"sentiment": ["negative", "positive"]}}
    assert check["conflicts"]["examples"] == [conflict]
    assert check["conflicts"]["tasks"] == {"sentiment": 1, "polarization": 0}


def test_what_would_leak_across_the_configured_split(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    parts = ["train", "test", "validation", "train", "train", "validation"]
    rows = [(*row, part) for row, part in zip(ROWS[:6], parts, strict=True)]
    path.write_text(HEADER.strip() + ",split\n" + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    split = checked(str(path), split=SplitConfig(kind="column"))["split"]
    assert {part: counts["rows"] for part, counts in split["parts"].items()} == {"train": 3, "validation": 2, "test": 1}
    assert split["parts"]["train"]["tasks"]["sentiment"] == {"negative": 0, "neutral": 2, "positive": 1}
    shared = {tuple(pair["parts"]): (pair["duplicate"], pair["near"], pair["titles"]) for pair in split["shared"]}
    # a = c, a = b, e ~ f; c = b
    assert shared == {("train", "validation"): (1, 1, 1), ("train", "test"): (1, 0, 1), ("validation", "test"): (1, 0, 1)}


def test_own_files_are_compared_with_each_other(tmp_path: Path) -> None:
    paths = {}
    for part, rows in {"train": ROWS[:2], "validation": ROWS[2:5]}.items():
        paths[part] = str(tmp_path / f"{part}.csv")
        Path(paths[part]).write_text(HEADER + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    check = checked(paths)
    assert {part: report["rows"] for part, report in check["sources"].items()} == {"train": 2, "validation": 3}
    (pair,) = check["split"]["shared"]
    assert (pair["duplicate"], pair["near"], pair["titles"]) == (2, 0, 1)
    assert "train / validation" in render(check)


def test_a_split_that_cannot_be_made_is_told(path: str) -> None:
    check = checked(path, split=SplitConfig(kind="plan", stratify="polarization"))
    assert "error" in check["split"]
    assert "not possible" in render(check)


def test_grouped_split_shares_no_title() -> None:
    split = checked("sample:600", split=SplitConfig(kind="group"))["split"]
    assert [pair["titles"] for pair in split["shared"]] == [0, 0, 0]


def test_tokens_and_unknown_share(path: str) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"[UNK]": 0, "salamat": 1, "po": 2, "A": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    rows = [ROWS[0], ("b", "A", "salamat kaayo sa imo", "neutral", "partisan")]
    Path(path).write_text(HEADER + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    lengths = check_source(path, DataConfig(max_comment=32), tokenizer)["lengths"]
    assert (lengths["comment_tokens"]["min"], lengths["comment_tokens"]["max"]) == (2, 4)
    assert lengths["unknown_share"] == {"comment": 3 / 6, "title": 0.0}
    assert lengths["cut"] == {"max_comment": 0.0, "max_title": 0.0, "max_length": 0.0}
    text = render(check_source(path, DataConfig(), tokenizer))
    assert "50.00% of comment tokens" in text and "Lengths" in text


def test_rendering_shows_the_findings_and_no_more_of_a_comment_than_60_characters(path: str) -> None:
    text = render(checked(path))
    for fragment in ("10 rows, 7 usable", "line 9", "did you mean 'negative'?", "non_polarized", "a = b = c", "e = f"):
        assert fragment in text
    assert LONG not in text


def test_what_steers_a_terminal_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    comment = "[red]hello[/red] \x1b[31m \u202e :smile:"
    rows = [("a", "\x1b]0;title\x07", comment, "positive", "partisan"), ("b", "\x1b]0;title\x07", comment, "negative", "partisan")]
    path.write_text(HEADER + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    text = render(checked(str(path)))
    assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text
    assert r"[red]hello[/red] \x1b[31m \u202e :smile:" in text


@pytest.mark.parametrize(("text", "expected"), [("a\nb", r"a\nb"), ("x" * 61, "x" * 57 + "..."), ("é 😂", "é 😂"), ("\u200b", r"\u200b")])
def test_shown(text: str, expected: str) -> None:
    assert shown(text) == expected
