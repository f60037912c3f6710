"""Every kind of bad input through the whole command: one clear error, status 2, and nothing left behind; and odd but good input."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from polarity.cli import main
from tests.tiny import tiny_csv, tiny_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_encoder(tmp_path_factory.mktemp("encoder"), "bert", hidden=16))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_csv(tmp_path_factory.mktemp("good") / "good.csv", 120, missing=0.0).read_text("utf-8")


def train(monkeypatch: pytest.MonkeyPatch, encoder: str, data: Path, run_dir: Path, *more: str) -> int:
    options = ["--preset", "small", "--encoder", encoder, "--data", str(data), "--run-dir", str(run_dir), "--workers", "0", "--epochs", "1"]
    settings = ["--set", "train.precision=fp32", "--set", "train.resamples=100", *more]
    monkeypatch.setattr(sys, "argv", ["polarity", "train", *options, *settings])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


ROW = "z,title,some words,positive,partisan\n"
# name of the file, what becomes of a good CSV, and what the message must hold
TEXTS: dict[str, tuple[str, str, str, str]] = {
    "missing column": ("x.csv", ",Comment,", ",Remark,", "no column 'Comment'"),
    "renamed label column": ("x.csv", "Final Sentiment", "Final Sentimnt", "did you mean 'Final Sentimnt'"),
    "unknown extension": ("x.cvs", "", "", "did you mean '.csv'"),
}
ROWS: dict[str, tuple[str, str]] = {
    "unknown label": (ROW.replace("positive", "postive"), "did you mean 'positive'"),
    "empty comment": (ROW.replace("some words", ""), "line 122: empty comment"),
    "white space": (ROW.replace("some words", " \t "), "line 122: empty comment"),
    "ragged": (ROW.replace("some words", "some, words"), "line 122: expected 5 columns"),
    "unclosed quote": (ROW.replace("some words", '"some words'), "line 122"),
    "duplicate id": (ROW.replace("z,", "r3,"), "the row id 'r3'"),
    "no label at all": (ROW.replace("positive,partisan", ","), "line 122: no label"),
}


def refused(
    data: Path, fragment: str, encoder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> None:
    run_dir, around = data.parent / "runs" / "first", sorted(data.parent.iterdir())
    assert train(monkeypatch, encoder, data, run_dir, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and data.name in error and fragment in error and "Traceback" not in error
    assert not run_dir.exists() and [path for path in sorted(data.parent.iterdir()) if path.name != "runs"] == around


@pytest.mark.parametrize("case", TEXTS)
def test_header_and_name(
    case: str, good: str, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, old, new, fragment = TEXTS[case]
    (tmp_path / name).write_text(good.replace(old, new) if old else good, "utf-8")
    refused(tmp_path / name, fragment, encoder, monkeypatch, capsys)


@pytest.mark.parametrize("command", ["train", "ablate", "tune"])
@pytest.mark.parametrize(("data", "fragment"), [("x.csv", "no column 'Comment'"), ("gone.csv", "no such file")])
def test_a_file_or_column_that_is_not_there_is_told_before_ray_starts(
    data: str, fragment: str, command: str, good: str, encoder: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def starts(*_: object) -> None:
        raise AssertionError("Ray is started")

    for place in ("train.cluster", "workflows.ablate", "tune.runner"):
        monkeypatch.setattr(f"polarity.{place}.start_ray", starts)
    (tmp_path / "x.csv").write_text(good.replace(",Comment,", ",Remark,"), "utf-8")
    (tmp_path / "space.yaml").write_text("optim.lr: {loguniform: [1.0e-5, 1.0e-4]}\n", "utf-8")
    space = [str(tmp_path / "space.yaml")] if command == "tune" else []
    options = ["--preset", "small", "--encoder", encoder, "--data", str(tmp_path / data)]
    monkeypatch.setattr(sys, "argv", ["polarity", command, *space, *options])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and fragment in error and data in error and "Traceback" not in error


@pytest.mark.parametrize("command", ["train", "ablate", "tune", "best", "benchmark"])
@pytest.mark.parametrize(("name", "fragment"), [("bare", "has no config.json"), ("nobody/nothing", "the hub cannot be reached")])
def test_an_encoder_that_cannot_be_had_is_told_before_ray_starts_and_leaves_nothing(
    name: str, fragment: str, command: str, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def starts(*_: object) -> None:
        raise AssertionError("Ray is started")

    for place in ("train.cluster", "workflows.ablate", "tune.runner"):
        monkeypatch.setattr(f"polarity.{place}.start_ray", starts)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare").mkdir()
    (tmp_path / "x.csv").write_text(good, "utf-8")
    (tmp_path / "space.yaml").write_text("optim.lr: {loguniform: [1.0e-5, 1.0e-4]}\n", "utf-8")
    around = sorted(tmp_path.iterdir())
    first = {"tune": ["space.yaml", "--data", "x.csv"], "best": ["x.csv"]}.get(command, ["--data", "x.csv"])
    monkeypatch.setattr(sys, "argv", ["polarity", command, *first, "--preset", "small", "--encoder", name])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 2 and shown.out == ""
    assert shown.err.startswith("error: encoder ") and name in shown.err and fragment in shown.err and shown.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == around


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row(
    case: str, good: str, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row, fragment = ROWS[case]
    (tmp_path / "x.csv").write_text(good + row, "utf-8")
    refused(tmp_path / "x.csv", fragment, encoder, monkeypatch, capsys)


def write_damaged(case: str, folder: Path, good: str) -> tuple[Path, str]:
    """A file that is bad as a whole, and what the message must hold."""
    table = pa_csv.read_csv(pa.BufferReader(good.encode()))
    lines = [line.split(",") for line in good.splitlines()]
    negative = "\n".join(",".join(line) for i, line in enumerate(lines) if i == 0 or line[3] == "negative") + "\n"
    rare = [line for line in lines[1:] if line[3] == "positive"][1:]
    texts = {
        "zero rows": ("x.csv", good.splitlines()[0] + "\n", "no rows"),
        "one class": ("x.csv", negative, "'negative'"),
        "a part lacks a class": (
            "x.csv",
            "\n".join(",".join(line) for line in lines if line not in rare) + "\n",
            "no row of sentiment is 'positive'; a class needs 3 rows",
        ),
        "broken JSON": ("x.jsonl", '{"Comment": "x"\n', "line 1: broken JSON"),
    }
    if case in texts:
        path = folder / texts[case][0]
        path.write_text(texts[case][1], "utf-8")
        return path, texts[case][2]
    if case == "folder":
        (folder / "x.csv").mkdir()
        return folder / "x.csv", "is a folder"
    if case == "encoding":
        (folder / "x.csv").write_bytes((good + ROW.replace("some words", "señor")).encode("latin-1") + "y,t,señor,,\n".encode())
        return folder / "x.csv", "line 122: not UTF-8"
    comments = table["Comment"].to_pylist()
    wrong = table.set_column(2, "Comment", pa.array([*comments[:-1], None])) if case == "NaN" else table
    pq.write_table(wrong, folder / "x.parquet")
    if case == "truncated Parquet":
        (folder / "x.parquet").write_bytes((folder / "x.parquet").read_bytes()[:-30])
        return folder / "x.parquet", "truncated"
    return folder / "x.parquet", "row 119 (counted from 0): empty comment"


@pytest.mark.parametrize(
    "case", ["zero rows", "one class", "a part lacks a class", "broken JSON", "folder", "encoding", "truncated Parquet", "NaN"]
)
def test_a_bad_file(
    case: str, good: str, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, fragment = write_damaged(case, tmp_path, good)
    refused(path, fragment, encoder, monkeypatch, capsys)


def test_a_folder_that_holds_a_run_stays_as_it_is(
    good: str, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.csv").write_text(good, "utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_text("{}")
    assert train(monkeypatch, encoder, tmp_path / "x.csv", tmp_path / "run") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.json"]


ODD = {
    "emoji": "🤣🇵🇭 ❤️ ang galing 👨‍👩‍👧",
    "zero width": "zero\u200bwidth\u200d and \ufeff inside",
    "long": "mahaba " * 1500,
    "one long word": "x" * 10_000,
    "punctuation": "?!... ,,, --",
    "right to left": "مرحبا بالعالم שלום",
    "line breaks": 'he said "no",\r\nand\nleft',
    "controls": "bell \u0007 and escape \u001b[31m",
}


@pytest.mark.slow
def test_odd_comments_train_fine(
    good: str, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a byte order mark, in all three parts, and each of them judged."""
    rows = [line + ",train" for line in good.splitlines()[1:]]
    rows = [row[: -len("train")] + ["train", "validation", "test"][i % 3] for i, row in enumerate(rows)]
    for part in ("train", "validation", "test"):
        for name, text in ODD.items():
            quoted = text.replace('"', '""')
            rows.append(f'{name} {part},title,"{quoted}",neutral,objective,{part}')
    source = tmp_path / "odd.csv"
    source.write_text("\ufeff" + good.splitlines()[0] + ",split\n" + "\n".join(rows) + "\n", "utf-8", newline="")
    assert train(monkeypatch, encoder, source, tmp_path / "run", "--set", "data.split.kind=column", "--set", "data.duplicates=allow") == 0
    predictions = {row["row_id"]: row for row in pq.read_table(tmp_path / "run" / "predictions.parquet").to_pylist()}
    for part in ("validation", "test"):
        for name in ODD:
            scores = [value for key, value in predictions[f"{name} {part}"].items() if "_p_" in key]
            assert len(scores) == 6 and np.isfinite(scores).all() and sum(scores) == pytest.approx(2.0, abs=1e-4)
