"""`polarity best` as its user runs it, with a tiny encoder: folds, members, the saved run in other commands, a kill and the same result."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from polarity.artifacts import RunFolder
from polarity.best.record import BestRecord
from polarity.best.rows import make_folds
from polarity.cli import main
from polarity.config import SplitConfig
from polarity.data.seen import SeenRows
from polarity.errors import RunError
from polarity.predict import load_classifier
from polarity.run import Run
from polarity.workflows.best import _names
from polarity.workflows.best_training import _with_own_label
from tests.tiny import tiny_comments, tiny_csv, tiny_encoder

TASKS = ["sentiment", "polarization"]
BATCHES = ["--set", "train.global_batch_size=64", "--set", "train.micro_batch_size=32"]
QUICK = ["--workers", "0", "--set", "train.precision=fp32", "--set", "train.resamples=100", "--time", "2h", *BATCHES]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["polarity", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


@pytest.mark.parametrize("kind", ["joint", "group"])
def test_every_row_is_scored_once_by_models_that_saw_neither_it_nor_its_twin(kind: str) -> None:
    table = tiny_comments(120, titles=12)
    twins = table.slice(0, 10).set_column(0, "row_id", [[f"twin{i}" for i in range(10)]])
    both = pa.concat_tables([table, twins.cast(table.schema)])
    folds = make_folds(both, SplitConfig(kind=kind), TASKS, 4)
    scored = [row for split in folds.splits for row in split.validation["row_id"].to_pylist()]
    assert sorted(scored) == sorted(both["row_id"].to_pylist())
    for split in folds.splits:
        of_train, of_scored = ({(r["title"], r["comment"]) for r in part.to_pylist()} for part in (split.train, split.validation))
        assert not of_train & of_scored
        if kind == "group":
            assert not {title for title, _ in of_train} & {title for title, _ in of_scored}


def test_members_have_names_of_their_own() -> None:
    encoders = ["hub/title", "a/e5", "b/e5", "fused-e5", "frozen-e5/"]
    assert list(_names(encoders).values()) == ["title-2", "e5", "e5-2", "encoder-fused-e5", "encoder-frozen-e5"]


@pytest.mark.slow
def test_the_run_is_taken_by_other_commands_and_a_killed_one_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, encoder = tiny_csv(tmp_path / "rows.csv", 440), tiny_encoder(tmp_path / "encoder", "bert", hidden=16, layers=2)
    test = tiny_csv(tmp_path / "test.csv", 60, seed=1)
    unlabelled = tmp_path / "unlabelled.csv"
    unlabelled.write_text("Title,Comment\n" + "".join(f"mayor opens the new road,bulok na daan {i} {i * i}\n" for i in range(30)))
    asked = [data, "--encoder", encoder, "--unlabelled", unlabelled, *QUICK]
    whole = tmp_path / "whole"
    run(monkeypatch, "best", *asked, "--run-dir", whole)
    record = BestRecord.read(RunFolder.open(whole))
    assert record.outcome is not None and [m.kind for m in record.outcome.members] == ["title", "linear", "frozen", "fused", "encoder"]
    predictions = pq.read_table(whole / "predictions.parquet")
    apart = set(predictions.filter(pc.equal(predictions["split"], "test"))["row_id"].to_pylist())
    assert len(apart) == 44 and predictions["split"].to_pylist().count("validation") <= 396
    judging = tiny_comments(440).filter(pc.is_in(tiny_comments(440)["row_id"], value_set=pa.array(apart)))
    for place in [*(whole / "members").glob("*/fold-*"), whole / "student"]:  # no teacher has seen the labels that judge the student
        seen = SeenRows(pq.read_table(place / "seen.parquet")).match(judging)
        assert not (seen.of("train") & ~seen.near).any()

    out = tmp_path / "predicted.csv"
    run(monkeypatch, "predict", whole, "--data", test, "--out", out, "--workers", "0")
    assert len(out.read_text().splitlines()) == 61
    run(monkeypatch, "evaluate", whole, "--data", test)
    run(monkeypatch, "report", whole)

    student = Run.open(whole / "student")
    assert set(student.rows("validation")["row_id"].to_pylist()) == apart and not student.decided
    assert student.metrics["validation"]["no_verdict"] is None
    assert student.row_counts["train"] == len(predictions) - 44 + 30 - student.environment["dropped_from_train"]["rows"]
    run(monkeypatch, "export", whole, "--to", "hf", "--out", tmp_path / "exported")

    killed = tmp_path / "killed"
    shutil.copytree(whole, killed)
    for name in ("metrics.json", "predictions.parquet", "stack.json", "report.html", "config.yaml", "environment.json"):
        (killed / name).unlink()
    shutil.rmtree(killed / "model")
    shutil.rmtree(killed / "student")
    member = record.outcome.members[-1].name
    (killed / "out_of_fold" / f"{member}.safetensors").unlink()
    shutil.rmtree(killed / "members" / member / "fold-3")
    run(monkeypatch, "best", *asked, "--run-dir", killed, "--resume")
    for name in ("metrics.json", "stack.json", "student/metrics.json"):
        assert json.loads((killed / name).read_text()) == json.loads((whole / name).read_text())
    first, second = (load_classifier(str(place)).score(tiny_comments(20, seed=3)) for place in (whole, killed))
    for task in TASKS:
        np.testing.assert_array_equal(first[task].probabilities, second[task].probabilities)
    monkeypatch.setattr("sys.argv", ["polarity", "best", *map(str, asked), "--set", "optim.lr=1e-3", "--run-dir", str(killed), "--resume"])
    with pytest.raises(SystemExit):
        main()


def test_few_rows_without_an_encoder_and_rows_to_hold_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_csv(tmp_path / "rows.csv", 90)
    run(monkeypatch, "best", data, "--encoder", "none", "--hold-out", "0.2", *QUICK, "--run-dir", tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Members of the stack" in page and "linear" in page
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["rows"] == 18 and metrics["validation"]["rows"] <= 72
    assert "<h3>out-of-fold, " in page and "validation rows" not in page
    with pytest.raises(RunError):
        RunFolder.create(tmp_path / "run")


def test_a_student_is_taught_labels_and_the_stack_in_halves_and_the_stack_alone_without_a_label() -> None:
    said = np.array([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(_with_own_label(said, np.array([0, -1])), [[0.6, 0.15, 0.25], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(said[0], [0.2, 0.3, 0.5])


def test_a_student_without_rows_to_judge_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["polarity", "best", tiny_csv(tmp_path / "rows.csv", 90), "--hold-out", "0", "--run-dir", tmp_path / "run"]
    monkeypatch.setattr("sys.argv", [*map(str, asked)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "add --no-student" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_rows_out_of_fold_are_nowhere_called_validation_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, place, words = tiny_csv(tmp_path / "rows.csv", 90), tmp_path / "run", tmp_path / "words.csv"
    monkeypatch.setenv("POLARITY_VERBOSE", "1")
    run(monkeypatch, "best", data, "--encoder", "none", *QUICK, "--run-dir", place)
    shown = capsys.readouterr().out
    assert "90 out-of-fold rows; 1 is perfect" in shown and "out-of-fold, 90 rows" in shown
    page, card = (place / "report.html").read_text(), (place / "model" / "README.md").read_text()
    assert "on 90 out-of-fold rows" in page and "each was scored by models that had not seen it" in page
    assert "On 90 out-of-fold rows" in card and "fitted on out-of-fold rows" in card
    shutil.copytree(place, tmp_path / "again")
    run(monkeypatch, "compare", place, tmp_path / "again")
    compared = capsys.readouterr().out
    assert compared.startswith("90 out-of-fold rows: no difference between run and again")
    words.write_text("Title,Comment\n" + "".join(f"rice prices rise again,bulok na daan {i}\n" for i in range(120)))
    run(monkeypatch, "predict", place, "--data", words, "--out", tmp_path / "predicted.csv", "--workers", "0")
    predicted = capsys.readouterr().out
    assert "held-out rows" in predicted
    assert not [text for text in (shown, page, card, compared, predicted) if "validation rows" in text or "validation row " in text]
