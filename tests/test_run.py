"""`polarity.Run`: one reader of a run folder, wherever it lies and whatever wrote it."""

import json
import shutil
from pathlib import Path

import pytest

import polarity
from polarity.errors import ConfigError, RunError
from polarity.workflows.ensemble import ensemble
from polarity.workflows.evaluate import evaluate
from tests.trained import trained_run, training_file


def test_a_run_opens_by_path_and_by_uri(tmp_path: Path) -> None:
    folder = trained_run(tmp_path / "first")
    run, remote = polarity.Run.open(folder), polarity.Run.open(folder.as_uri())
    assert (run.name, run.kind, run.labels) == (remote.name, "training", remote.labels)
    assert run.predictions.equals(remote.predictions)
    assert run.splits == ["validation", "test"]
    assert sum(run.rows(name).num_rows for name in run.splits) == run.predictions.num_rows
    assert run.rows("test").num_rows == run.row_counts["test"]
    assert "first" in repr(run) and "sentiment (3 classes)" in repr(run) and "test" in repr(run)


def test_what_the_loss_knew_is_read_back(tmp_path: Path) -> None:
    run = polarity.Run.open(trained_run(tmp_path / "first"))
    stored = json.loads((tmp_path / "first" / "ledger.json").read_text())["tasks"]["sentiment"]
    statistics = run.task_statistics["sentiment"]
    assert statistics.counts == [entry["rows"] for entry in stored]
    assert statistics.class_weights == [entry["class_weight"] for entry in stored]
    assert run.stability is not None and len(run.stability["epoch_losses"]) == 3


@pytest.mark.parametrize("keep", ["best", "last"])
def test_rows_chose_the_epoch_only_where_the_best_one_is_kept(tmp_path: Path, keep: str) -> None:
    folder = trained_run(tmp_path / "first")
    settings = (folder / "config.yaml").read_text()
    assert "keep: best" in settings
    (folder / "config.yaml").write_text(settings.replace("keep: best", f"keep: {keep}"))
    run = polarity.Run.open(folder)
    scores = [epoch.scores["overall"] for epoch in run.epochs]
    assert run.decided == ({"validation": ["the epoch"]} if keep == "best" else {})
    assert run.stability and run.stability["best_epoch"] == (1 + scores.index(max(scores)) if keep == "best" else 3)


def test_settings_go_on_top_of_the_run_s_own(tmp_path: Path) -> None:
    run = polarity.Run.open(trained_run(tmp_path / "first"))
    assert run.config_with(["data.comment_column=text"]).data.comment_column == "text"
    assert run.config_with([]) is run.config
    assert list(run.config_with(["data.tasks.polarization=null"]).labels) == ["sentiment"]
    with pytest.raises(ConfigError, match="coment_column"):
        run.config_with(["data.coment_column=text"])


def test_ensembles_and_evaluations_open_as_runs_too(tmp_path: Path) -> None:
    one, two = trained_run(tmp_path / "one", 0), trained_run(tmp_path / "two", 1)
    ensemble([str(one), str(two)], str(tmp_path / "both"), weights="equal", say=lambda _: None)
    shutil.rmtree(one)  # an ensemble holds copies of its members
    both = polarity.Run.open(tmp_path / "both")
    assert both.kind == "ensemble" and [member.name for member in both.members] == ["one", "two"]
    assert both.labels == polarity.Run.open(two).labels
    evaluate(str(two), str(training_file()), out=str(tmp_path / "judged"), say=lambda _: None)
    judged = polarity.Run.open(tmp_path / "judged")
    assert judged.kind == "evaluation" and judged.labels == both.labels and judged.rows(judged.splits[0]).num_rows


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        polarity.Run.open(tmp_path)
    folder = trained_run(tmp_path / "first")
    (folder / "predictions.parquet").unlink()
    (folder / "ledger.json").write_text('{"schema_version": 1, "rows": 3}')
    run = polarity.Run.open(folder)
    with pytest.raises(RunError, match=r"has no predictions\.parquet; is the run finished"):
        _ = run.predictions
    with pytest.raises(RunError, match=r"ledger\.json: .*damaged or was edited"):
        _ = run.ledger


def test_a_history_without_a_column_is_named(tmp_path: Path) -> None:
    run = polarity.Run.open(trained_run(tmp_path / "run"))
    assert run.epochs and run.history is not None
    run.folder.write_parquet("history.parquet", run.history.drop_columns(["seconds"]))
    with pytest.raises(RunError, match=r"history\.parquet: has no column 'seconds'"):
        _ = polarity.Run.open(tmp_path / "run").epochs
