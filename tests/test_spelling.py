"""One word, many spellings: labels, missing words and column names mean the same in every format of file."""

import json
import unicodedata
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from polarity.config import DataConfig, TaskConfig
from polarity.data.read import read_comments
from polarity.errors import DataError
from polarity.spelling import canonical, match

SAME = [
    ("1", "1.0", "+1", "1.000", " 1 ", "1e0", "\uff11", "1."),
    ("0", "-0", "0.0", "0e5"),
    ("0.5", "0.50", "5e-1"),
    ("12345678901234567890123", "12345678901234567890123.0"),
    ("négatif", unicodedata.normalize("NFD", "négatif"), "NÉGATIF", "né\u00adgatif", "\ufeffnégatif\u200b"),
    ("negatif", "NEGAT\u0130F", "negat\u0131f"),
    ("very good", "Very\u00a0Good", " very  good\t", "very\u2009good", "\u202avery good\u202c"),
    ("straße", "STRASSE"),
    ("true", "True", "TRUE"),
    ("ﬁne", "fine"),
    ("한국", unicodedata.normalize("NFD", "한국")),
    ("ok", "o\u2060k", "ok\u3164", "ok\ufe0f"),
]
DIFFERENT = ["1", "01", "10", "0.1", "-1", "1a", "a", "á", "", "true", "i", "j"]


@pytest.mark.parametrize("spellings", SAME, ids=lambda same: repr(same[0]))
def test_spellings_of_one_word_are_equal(spellings: tuple[str, ...]) -> None:
    assert len({canonical(text) for text in spellings}) == 1


def test_other_words_stay_different() -> None:
    assert len({canonical(text) for text in DIFFERENT}) == len(DIFFERENT)


@given(st.text(max_size=30))
def test_the_form_is_its_own_form(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@given(st.integers(-(10**30), 10**30))
def test_whole_numbers_are_themselves_as_floats_are_written(number: int) -> None:
    assert canonical(str(number)) == str(number) == canonical(f"{number}.0")


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6))
def test_decimals_keep_their_value(number: Decimal) -> None:
    assert Decimal(canonical(format(number, "f"))) == number


def test_absurd_numbers_are_left_alone() -> None:
    assert canonical("9" * 5000) == "9" * 5000 and canonical("1e999") == "1e999"


def config(labels: list[str], column: str = "y", **more: object) -> DataConfig:
    tasks = {"t": TaskConfig(column=column, labels=labels)}
    return DataConfig(title_column=None, comment_column="text", tasks=tasks, split={"stratify": "t"}, **more)  # type: ignore[arg-type]


def write(folder: Path, frame: pd.DataFrame) -> dict[str, str]:
    """The frame in each format, as pandas and datasets write it."""
    import datasets

    frame.to_csv(folder / "f.csv", index=False)
    frame.to_csv(folder / "f.tsv", index=False, sep="\t")
    frame.to_parquet(folder / "f.parquet")
    frame.to_json(folder / "f.jsonl", orient="records", lines=True, force_ascii=False)
    datasets.Dataset.from_pandas(frame).save_to_disk(str(folder / "saved"))
    return {name: str(folder / name) for name in ("f.csv", "f.tsv", "f.parquet", "f.jsonl", "saved")}


TEXTS = [f"comment {i}" for i in range(6)]
COLUMNS = {
    "integers": (pd.Series([0, 1, 2, 0, 1, 2]), [0, 1, 2, 0, 1, 2]),
    "integers with a gap": (pd.Series([0, 1, None, 0, 1, 2]), [0, 1, None, 0, 1, 2]),
    "nullable integers": (pd.Series([0, 1, None, 0, 1, 2], dtype="Int64"), [0, 1, None, 0, 1, 2]),
    "floats": (pd.Series([0.0, 1.0, 2.0, 0.0, 1.0, float("nan")]), [0, 1, 2, 0, 1, None]),
    "texts of floats": (pd.Series(["0.0", "1.00", "2", "0", "1.0", "nan"]), [0, 1, 2, 0, 1, None]),
    "categories": (pd.Series(["0", "1", "2", "0", "1", "2"], dtype="category"), [0, 1, 2, 0, 1, 2]),
}


@pytest.mark.parametrize("labels", [["0", "1", "2"], ["0.0", "1.0", "2.0"]], ids=["whole", "floats"])
@pytest.mark.parametrize("kind", COLUMNS)
def test_the_same_values_give_the_same_rows_in_every_format(kind: str, labels: list[str], tmp_path: Path) -> None:
    values, expected = COLUMNS[kind]
    other = pd.Series(["a", "b"] * 3)  # so that a row without the first label has one
    files = write(tmp_path, pd.DataFrame({"text": TEXTS, "y": values, "z": other}))
    both = config(labels).model_copy(
        update={"tasks": {"t": TaskConfig(column="y", labels=labels), "u": TaskConfig(column="z", labels=["a", "b"])}}
    )
    for name, path in files.items():
        assert read_comments(path, both, say=lambda _: None)["t"].to_pylist() == expected, name


def test_booleans_and_dictionaries_in_every_format(tmp_path: Path) -> None:
    files = write(tmp_path, pd.DataFrame({"text": TEXTS, "y": [True, False] * 3}))
    for name, path in files.items():
        assert read_comments(path, config(["False", "TRUE"]))["t"].to_pylist() == [1, 0] * 3, name
    table = pa.table({"text": TEXTS, "y": pa.array(["a", "b", "a", "b", "a", "b"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "d.parquet")
    assert read_comments(str(tmp_path / "d.parquet"), config(["A", "b"]))["t"].to_pylist() == [0, 1] * 3


def test_words_for_no_label_are_counted_unless_they_are_a_class(tmp_path: Path) -> None:
    words = ["good", "bad", "NaN", "<NA>", "N/A", "none"]
    pd.DataFrame({"text": TEXTS, "y": words, "z": ["a", "b"] * 3}).to_csv(tmp_path / "w.csv", index=False)
    two = {"t": TaskConfig(column="y", labels=["good", "bad"]), "u": TaskConfig(column="z", labels=["a", "b"])}
    told: list[str] = []
    table = read_comments(str(tmp_path / "w.csv"), config(["good", "bad"]).model_copy(update={"tasks": two}), say=told.append)
    assert table["t"].to_pylist() == [0, 1, None, None, None, None]
    assert len(told) == 1 and "4 label cells" in told[0] and "data.missing_labels" in told[0]
    three = {**two, "t": TaskConfig(column="y", labels=["good", "bad", "None"])}
    told.clear()
    table = read_comments(str(tmp_path / "w.csv"), config(["good", "bad"]).model_copy(update={"tasks": three}), say=told.append)
    assert table["t"].to_pylist() == [0, 1, None, None, None, 2] and "3 label cells" in told[0]
    strict = config(["good", "bad"]).model_copy(update={"tasks": two, "missing_labels": ["missing"]})
    with pytest.raises(DataError, match="unknown label: the column 'y' holds 'NaN'"):
        read_comments(str(tmp_path / "w.csv"), strict)


def test_column_names_are_found_by_their_canonical_form(tmp_path: Path) -> None:
    header = [unicodedata.normalize("NFD", "Étiquette"), " TEXT\u200b"]
    with (tmp_path / "c.jsonl").open("w", encoding="utf-8") as file:
        for text in TEXTS:
            file.write(json.dumps(dict(zip(header, ["a", text], strict=True))) + "\n")
    assert read_comments(str(tmp_path / "c.jsonl"), config(["a", "b"], "étiquette"))["comment"].to_pylist() == TEXTS
    pd.DataFrame({"text": TEXTS, "Y": ["a"] * 6, "y ": ["b"] * 6}).to_parquet(tmp_path / "two.parquet")
    with pytest.raises(DataError, match="columns 'Y' and 'y ' have one name but for spelling"):
        read_comments(str(tmp_path / "two.parquet"), config(["a", "b"]))
    pd.DataFrame({"text": TEXTS, "Y": ["a"] * 6, "y": ["b"] * 6}).to_parquet(tmp_path / "exact.parquet")
    assert read_comments(str(tmp_path / "exact.parquet"), config(["a", "b"]))["t"].to_pylist() == [1] * 6
    assert match("x", ["X", "x "]) is None


@pytest.mark.parametrize("labels", [["1", "1.0"], ["é", "e\u0301"], ["a", "\u00adA"], ["ok", "\u200b"], [str(i) for i in range(128)]])
def test_labels_that_nobody_can_tell_apart_are_refused(labels: list[str]) -> None:
    with pytest.raises(ValidationError, match=r"the same but for spelling|visible character|at most 127"):
        TaskConfig(column="y", labels=labels)
