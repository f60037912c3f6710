"""`polarity data check` and `polarity data oversample` as a user calls them, and bad data on its way to Ray's workers."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from polarity.cli import main
from tests.tiny import COLUMNS, TITLES, tiny_csv, tiny_encoder

Polarity = Callable[..., tuple[int, str, str]]

HEADER = ["row_id", "Title", "Comment", *COLUMNS.values()]
LONG = "the new road was opened today by a mayor"


@pytest.fixture
def polarity(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Polarity:
    """The command line in this process: exit status, what it printed, and its errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["polarity", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"), "bert", hidden=16)


def appended(path: Path, *rows: list[str]) -> Path:
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_check_shows_all_that_it_found(encoder: Path, tmp_path: Path, polarity: Polarity) -> None:
    """A file of sixty good rows, and one row behind them for each thing that the check looks for."""
    file = appended(
        tiny_csv(tmp_path / "x.csv", 60, missing=0.0),
        ["a", TITLES[0], LONG, "negative", "partisan"],
        ["b", TITLES[0], LONG, "negative", "partisan"],  # the same as a
        ["c", TITLES[0], f"  {LONG.upper()} ", "positive", "partisan"],  # the same when normalised, with another label
        ["d", TITLES[1], f"{LONG}!", "negative", "partisan"],  # near them
        ["e", TITLES[1], "words", "postive", "partisan"],
        ["a", TITLES[1], "other words", "neutral", ""],
    )
    status, shown, error = polarity("data", "check", file, "--encoder", encoder, "--set", "data.split.kind=joint")
    assert (status, error) == (0, "")
    for words in (
        "66 rows, 65 usable", "line 66", "did you mean 'positive'?", "line 62, line 67", "sentiment (down) x polarization (across)",
        "a = b = c", "Conflicting labels", "sentiment: negative / positive", "comment tokens", "data.max_length cuts",
        "Split (joint)", "train / validation", TITLES[0],
    ):  # fmt: skip
        assert words in shown, words
    status, shown, _ = polarity("data", "check", file, "--encoder", encoder, "--json")
    check = json.loads(shown)
    assert status == 0 and check["lengths"]["comment_tokens"]["max"] > 0
    assert {kind: found["groups"] for kind, found in check["duplicates"].items()} == {"exact": 1, "normalised": 1, "near": 1}
    with file.open(encoding="utf-8", newline="") as opened:
        labels = Counter(row[3] for row in csv.reader(opened) if row[0] not in ("row_id", "e"))
    assert check["tasks"]["sentiment"]["classes"] == dict(labels) and check["tasks"]["polarization"]["missing"] == 1
    assert names(tmp_path) == ["x.csv"]


def test_check_of_own_parts_shows_what_they_share(tmp_path: Path, polarity: Polarity) -> None:
    train, validation = tiny_csv(tmp_path / "train.csv", 60, missing=0.0), tiny_csv(tmp_path / "validation.csv", 40, seed=1, missing=0.0)
    for file, row_id in ((train, "mine"), (validation, "theirs")):
        appended(file, [row_id, TITLES[0], LONG, "negative", "partisan"])
    status, shown, _ = polarity("data", "check", "--train", train, "--validation", validation)
    assert status == 0 and "train / validation" in shown and "mine = theirs" in shown


def test_oversample_says_what_it_leaves_out_and_what_it_leaves_in(ray_cluster: None, tmp_path: Path, polarity: Polarity) -> None:
    file = appended(tiny_csv(tmp_path / "x.csv", 90, missing=0.0), ["bad", TITLES[0], " ", "neutral", "objective"])
    appended(file, ["twin", TITLES[0], LONG, "neutral", "objective"], ["other twin", TITLES[0], LONG, "neutral", "objective"])
    out = tmp_path / "epoch.parquet"
    status, shown, _ = polarity("data", "oversample", file, "--points", "2", "--out", out, "--set", "data.bad_rows=drop")
    table = pq.read_table(out)
    assert status == 0 and "left out 1 of 93 rows (data.bad_rows=drop):" in shown and "line 92: empty comment" in shown
    assert "data.split and data.duplicates were not applied" in shown
    ids = set(table["row_id"].to_pylist())
    assert len(ids) == 92 and {"twin", "other twin"} <= ids
    counts = Counter(table["row_id"].to_pylist())
    assert all(counts[row] == times for row, times in zip(table["row_id"].to_pylist(), table["multiplicity"].to_pylist(), strict=True))


def test_oversample_refuses_and_leaves_nothing(ray_cluster: None, tmp_path: Path, polarity: Polarity) -> None:
    good, bad = tiny_csv(tmp_path / "good.csv", 30, missing=0.0), tiny_csv(tmp_path / "bad.csv", 30, missing=0.0)
    appended(bad, ["z", TITLES[0], "words", "postive", "partisan"])
    ragged = appended(tiny_csv(tmp_path / "ragged.csv", 30, missing=0.0), ["z", TITLES[0], "some", " words", "positive", "partisan"])
    (tmp_path / "kept.parquet").write_bytes(b"mine")
    before = names(tmp_path)
    for arguments, words in (
        ([bad, "--out", tmp_path / "out.parquet"], "bad.csv, line 32: unknown label"),
        ([ragged, "--out", tmp_path / "out.parquet"], "ragged.csv, line 32: expected 5 columns"),
        ([tmp_path / "nowhere.csv", "--out", tmp_path / "out.parquet"], "nowhere.csv: no such file"),
        ([good, "--out", tmp_path / "out.csv"], "ends in .parquet"),
        ([good, "--out", tmp_path / "kept.parquet"], "exists already"),
        ([good, "--out", tmp_path / "out.parquet", "--set", "data.oversample.boosts.sentiment.neutrl=2"], "neutrl"),
    ):
        status, _, error = polarity("data", "oversample", *arguments)
        assert status == 2 and error.startswith("error: ") and words in error and "Traceback" not in error, error
        assert names(tmp_path) == before and (tmp_path / "kept.parquet").read_bytes() == b"mine"


def csv_with(*rows: list[str]) -> Callable[[Path, Path], Path]:
    return lambda folder, good: appended(Path(good.rename(folder / "x.csv")), *rows)


def damaged_utf8(folder: Path, good: Path) -> Path:
    """A line of UTF-8 and behind it one of Latin-1: the file is neither."""
    rows = "y,t,señora,positive,partisan\n".encode() + "z,t,señor,positive,partisan\n".encode("latin-1")
    (folder / "x.csv").write_bytes(good.read_bytes() + rows)
    return folder / "x.csv"


def lines_of_json(*more: str) -> Callable[[Path, Path], Path]:
    """The rows as JSON Lines, and what comes behind them."""

    def write(folder: Path, good: Path) -> Path:
        rows = pa_csv.read_csv(good).to_pylist()
        (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n".join(more), "utf-8")
        return folder / "x.jsonl"

    return write


def truncated(folder: Path, good: Path) -> Path:
    pq.write_table(pa_csv.read_csv(good), folder / "x.parquet", row_group_size=20)
    (folder / "x.parquet").write_bytes((folder / "x.parquet").read_bytes()[:-30])
    return folder / "x.parquet"


def damaged_inside(folder: Path, good: Path) -> Path:
    """Whole at both ends: only who reads the rows sees it."""
    pq.write_table(pa_csv.read_csv(good), folder / "x.parquet", row_group_size=20)
    content = bytearray((folder / "x.parquet").read_bytes())
    content[4:2000] = bytes(1996)
    (folder / "x.parquet").write_bytes(content)
    return folder / "x.parquet"


# What becomes of a good file of 120 rows, and what the message must say of the place.
BAD: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "unknown label": (csv_with(["z", "t", "words", "postive", "partisan"]), "line 122: unknown label"),
    "ragged": (csv_with(["z", "t", "some", " words", "positive", "partisan"]), "line 122: expected 5 columns"),
    "duplicate id": (csv_with(["r3", "t", "words", "positive", "partisan"]), "line 122: the row id 'r3'"),
    "encoding": (damaged_utf8, "line 123: not UTF-8"),
    "NaN": (lines_of_json('{"row_id": "z", "Title": "t", "Comment": NaN, "Final Sentiment": "positive"}'), "line 121: empty comment"),
    "broken JSON": (lines_of_json('{"row_id": "z",'), "line 121: broken JSON"),
    "truncated Parquet": (truncated, "truncated, or not a Parquet file"),
    "damaged Parquet": (damaged_inside, "truncated, or not a Parquet file"),
}


@pytest.mark.parametrize(
    ("case", "read_by_ray"), [*((case, False) for case in BAD), *((case, True) for case in ("ragged", "broken JSON", "damaged Parquet"))]
)
def test_bad_data_is_refused_whoever_reads_it(
    case: str, read_by_ray: bool, encoder: Path, tmp_path: Path, polarity: Polarity, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With workers, tasks of Ray Data read what is not small: the same message, with file and place, and nothing of Ray's around it."""
    if read_by_ray:
        monkeypatch.setattr("polarity.data.split.SMALL_BYTES", -1)
    spoil, words = BAD[case]
    (tmp_path / "data").mkdir()
    file = spoil(tmp_path / "data", tiny_csv(tmp_path / "good.csv", 120, missing=0.0))
    run_dir = tmp_path / "run"
    status, _, error = polarity("train", "--preset", "small", "--encoder", encoder, "--data", file, "--run-dir", run_dir, "--workers", "2")
    assert status == 2 and error.startswith(f"error: {file}") and words in error, error
    assert "Traceback" not in error and "ray::" not in error
    assert not run_dir.exists() and names(tmp_path / "data") == [file.name]


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (("negative", "neutral"), "no row of sentiment is 'positive'"),
        (("negative",), "every label of sentiment is 'negative'"),
        ((), "no rows"),
    ],
)
def test_a_part_of_ones_own_without_a_class_is_named(
    keep: tuple[str, ...], words: str, encoder: Path, tmp_path: Path, polarity: Polarity
) -> None:
    train, whole = tiny_csv(tmp_path / "train.csv", 120, missing=0.0), tiny_csv(tmp_path / "whole.csv", 90, seed=1, missing=0.0)
    with whole.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row[3] in keep]
    (tmp_path / "validation.csv").write_text(",".join(HEADER) + "\n", "utf-8")
    validation = appended(tmp_path / "validation.csv", *rows)
    arguments = ["--train", train, "--validation", validation, "--run-dir", tmp_path / "run", "--workers", "0"]
    status, _, error = polarity("train", "--preset", "small", "--encoder", encoder, *arguments)
    assert status == 2 and error.startswith("error: ") and words in error and str(validation) in error, error
    assert not (tmp_path / "run").exists()
