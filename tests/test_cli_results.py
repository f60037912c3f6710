"""`polarity evaluate` and `polarity compare` as a user calls them, on tiny trained runs; and files and runs that they refuse."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from polarity.artifacts import RunFolder
from polarity.cli import main
from polarity.data.read import read_comments
from polarity.data.seen import SeenRows
from polarity.evaluate import metrics_schema
from polarity.run import Run
from polarity.workflows.train import calibrate_run
from tests.tiny import tiny_csv
from tests.trained import trained_run, training_file

Polarity = Callable[..., tuple[int, str, str]]


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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `first` and `second`, both calibrated, and the labelled file `new.csv`."""
    place = tmp_path_factory.mktemp("results")
    for seed, name in enumerate(("first", "second")):
        calibrate_run(RunFolder.open(trained_run(place / name, seed)), lambda _: None)
    tiny_csv(place / "new.csv", 150, seed=9)
    return place


def test_evaluate_judges_a_file_as_training_does(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    status, shown, error = polarity("evaluate", folder / "first", "--data", folder / "new.csv", "--out", tmp_path / "judged")
    assert (status, error) == (0, "")
    metrics = json.loads((tmp_path / "judged" / "metrics.json").read_text())
    jsonschema.validate(metrics, metrics_schema())
    assert metrics["test"]["rows"] == 150 and metrics["test"]["floors"] == {}
    assert (
        metrics["evaluation"]["calibrated"] and metrics["evaluation"]["run"] == "first" and metrics["evaluation"]["calibration_rows"] == 0
    )
    predictions = pq.read_table(tmp_path / "judged" / "predictions.parquet")
    with (folder / "new.csv").open(encoding="utf-8") as file:
        assert predictions["row_id"].to_pylist() == [row["row_id"] for row in csv.DictReader(file)]
    assert set(predictions["split"].to_pylist()) == {"test"} and not any(predictions["calibration_fitted"].to_pylist())
    assert "macro-F1" in shown and "--train FILE" in shown and "judged/metrics.json" in shown
    again = polarity("evaluate", folder / "first", "--data", folder / "new.csv", "--out", tmp_path / "judged")
    assert again[0] == 2 and "--out" in again[2] and "holds something" in again[2]


def test_runs_given_as_uris(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    run, out = (folder / "first").as_uri(), (tmp_path / "judged here").as_uri()
    status, _, error = polarity("evaluate", run, "--data", folder / "new.csv", "--out", out)
    assert (status, error) == (0, "")
    by_uri = json.loads((tmp_path / "judged here" / "metrics.json").read_text())
    status, _, error = polarity("evaluate", folder / "first", "--data", folder / "new.csv", "--out", tmp_path / "judged")
    assert (status, error) == (0, "") and by_uri == json.loads((tmp_path / "judged" / "metrics.json").read_text())
    status, shown, error = polarity("compare", run, (folder / "second").as_uri())
    assert (status, error) == (0, "") and "second" in shown


def test_evaluate_with_training_rows_has_floors_and_drift(folder: Path, polarity: Polarity) -> None:
    arguments = ["evaluate", folder / "first", "--data", folder / "new.csv", "--train", training_file(), "--json"]
    status, shown, _ = polarity(*arguments)
    metrics = json.loads(shown)
    jsonschema.validate(metrics, metrics_schema())
    assert status == 0 and set(metrics["test"]["floors"]) == {"majority", "title", "linear"}
    assert metrics["drift"]["warnings"] == [] and metrics["drift"]["lengths"]["median"] > 0
    assert metrics["drift"]["unknown"]["rate"] == pytest.approx(metrics["drift"]["unknown"]["train_rate"], abs=0.05)


def test_evaluate_warns_of_another_kind_of_rows(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    with (tmp_path / "odd.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Title", "Comment", "Final Sentiment", "Final Polarization"])
        writer.writerows([["", "中文 " * 60, "positive", "objective"], ["", "一個 " * 50, "neutral", "objective"]] * 40)
    status, shown, _ = polarity("evaluate", folder / "first", "--data", tmp_path / "odd.csv", "--train", training_file())
    assert status == 0
    for words in ("labels of sentiment", "labels of polarization", "another length", "does not know"):
        assert f"warning: the {words}" in shown or words in shown


def test_raw_and_votes_reach_the_scores(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    tables = {}
    for name, options in {"plain": [], "raw": ["--raw"], "mean": ["--raw", "--votes", "mean"]}.items():
        assert polarity("evaluate", folder / "first", "--data", folder / "new.csv", "--out", tmp_path / name, *options)[0] == 0
        tables[name] = pq.read_table(tmp_path / name / "predictions.parquet")["sentiment_p_negative"].to_numpy()
    assert abs(tables["plain"] - tables["raw"]).max() > 1e-4 and abs(tables["mean"] - tables["raw"]).max() > 1e-4
    assert json.loads((tmp_path / "raw" / "metrics.json").read_text())["evaluation"]["calibrated"] is False


def test_an_ensemble_is_judged_like_a_run(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    members = [str(folder / "first"), str(folder / "second")]
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "ensemble.json").write_text(json.dumps({"schema_version": 1, "members": members, "weights": [1, 1]}))
    status, shown, error = polarity("evaluate", tmp_path / "both", "--data", folder / "new.csv", "--json")
    assert status == 0, error
    assert json.loads(shown)["evaluation"]["run"] == "both"


def test_what_a_run_remembers_of_its_training_rows_is_compared(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    """environment.json's `train_tokens`, as training writes it: here set by hand to rows that were much longer."""
    run = trained_run(tmp_path / "run")
    environment = json.loads((run / "environment.json").read_text())
    edges = [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    environment["train_tokens"] = {
        "rows": 200,
        "tokens": 60_000,
        "unknown_tokens": 0,
        "median_length": 300.0,
        "length_edges": edges,
        "length_counts": [0] * 11 + [200, 0, 0],
    }
    (run / "environment.json").write_text(json.dumps(environment))
    status, shown, _ = polarity("evaluate", run, "--data", folder / "new.csv")
    assert status == 0 and "300 in training" in shown and "were not compared" not in shown


def copied(target: Path, rows: slice = slice(None), change: Callable[[str], str] = str) -> Path:
    """Rows of the training file, saved again."""
    header, *lines = training_file().read_text(encoding="utf-8").splitlines()
    target.write_text("\n".join([header, *map(change, lines[rows])]) + "\n", encoding="utf-8")
    return target


def judge(polarity: Polarity, run: Path, data: Path, *more: object) -> dict[str, Any]:
    status, shown, error = polarity("evaluate", run, "--data", data, "--json", *more)
    assert status == 0, error
    found: dict[str, Any] = json.loads(shown)
    jsonschema.validate(found, metrics_schema())
    return found


def test_only_rows_that_decided_nothing_are_judged(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    """The run's own file, the same rows saved again, and in another order and with other spaces: its test rows are left."""
    recorded = json.loads((folder / "first" / "metrics.json").read_text())
    again = copied(tmp_path / "again.csv", slice(None, None, -1), lambda line: f" {line.upper()} ")
    for data in (training_file(), again):
        found = judge(polarity, folder / "first", data, "--raw")
        assert "seen" not in found and found["test"]["rows"] == recorded["test"]["rows"]
        assert found["test"]["overall"]["macro_f1"] == pytest.approx(
            recorded["test"]["overall"]["macro_f1"], abs=1e-6 if data != again else 1
        )
        counts = found["evaluation"]["seen"]
        assert counts == {"train": 280, "validation": 60, "test": 60, "near": 0, "left_out": 340}
        assert "340 of 400 rows were seen by first (280 in training, 60 in validation" in found["evaluation"]["notes"][0]


def test_where_class_biases_make_train_and_evaluate_differ_both_say_so(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    run = Path(shutil.copytree(folder / "first", tmp_path / "run"))
    calibration = json.loads((run / "model" / "calibration.json").read_text())
    calibration["tasks"]["sentiment"]["biases"] = [9.0, 0.0, 0.0]
    (run / "model" / "calibration.json").write_text(json.dumps(calibration))
    trained = json.loads((run / "metrics.json").read_text())["test"]["overall"]["macro_f1"]
    shifted, raw = judge(polarity, run, training_file()), judge(polarity, run, training_file(), "--raw")
    assert (
        raw["test"]["overall"]["macro_f1"] == pytest.approx(trained, abs=1e-9) and shifted["test"]["overall"]["macro_f1"] < trained - 0.05
    )
    said = [note for note in shifted["evaluation"]["notes"] if "shifts the scores of the classes of sentiment" in note]
    assert len(said) == 1 and "--raw" in said[0] and "shifts" not in " ".join(raw["evaluation"]["notes"])
    assert polarity("report", run)[0] == 0
    assert "predict and evaluate shift the scores of the classes of sentiment" in (run / "report.html").read_text()


def test_seen_rows_are_kept_only_when_asked_and_never_called_test(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    found = judge(polarity, folder / "first", training_file(), "--seen", "keep", "--out", tmp_path / "kept")
    assert (found["seen"]["rows"], found["test"]["rows"]) == (340, 60)
    assert found["seen"]["no_verdict"] == "on rows that trained it" and found["test"]["no_verdict"] is None
    judged, own = pq.read_table(tmp_path / "kept" / "predictions.parquet"), pq.read_table(folder / "first" / "predictions.parquet")
    marked = judged.filter(judged["calibration_fitted"])["row_id"].to_pylist()
    assert sorted(marked) == sorted(own.filter(pc.equal(own["split"], "validation"))["row_id"].to_pylist())
    assert pc.unique(judged.filter(judged["calibration_fitted"])["split"]).to_pylist() == ["seen"]


def test_a_file_of_training_rows_alone_cannot_judge(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    seen = SeenRows(pq.read_table(folder / "first" / "seen.parquet"))
    rows = read_comments(str(training_file()), Run.open(folder / "first").data)
    trained = [place for place, used in enumerate(seen.match(rows).of("train")) if used]
    lines = training_file().read_text(encoding="utf-8").splitlines()
    part = tmp_path / "part.csv"
    part.write_text("\n".join([lines[0], *(lines[1 + place] for place in trained[:50])]) + "\n", encoding="utf-8")
    status, _, error = polarity("evaluate", folder / "first", "--data", part)
    assert status == 2 and "50 of 50 rows were seen by first" in error and "--seen keep" in error
    status, _, error = polarity("compare", folder / "first", folder / "second", "--data", part)
    assert status == 2 and "50 of 50 rows were seen by first or second" in error
    kept = polarity("compare", folder / "first", folder / "second", "--data", part, "--seen", "keep", "--json")
    compared = json.loads(kept[1])["splits"]
    assert list(compared) == ["seen"] and compared["seen"]["difference"]["overall"]["verdict"] == "on rows that trained it"


def test_a_run_without_hashes_says_that_it_cannot_be_checked(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    old = trained_run(tmp_path / "old")
    (old / "seen.parquet").unlink()
    found = judge(polarity, old, folder / "new.csv")
    assert "test" not in found and found["unchecked"]["no_verdict"] == "on unchecked rows" and found["evaluation"]["seen"] is None
    assert "cannot be checked" in found["evaluation"]["notes"][0]
    status, _, error = polarity("evaluate", old, "--data", training_file())
    assert status == 2 and "cannot be told apart" in error
    # whoever has its training rows can say which they are
    named = judge(polarity, old, copied(tmp_path / "again.csv"), "--train", training_file(), "--seen", "keep")
    assert named["seen"]["rows"] == 400 and "test" not in named


def test_a_file_with_other_columns_and_one_task(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    with (tmp_path / "other.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "mood"])
        writer.writerows([["galing ng mayor", "Positive"], ["bulok na naman", "negative"]] * 20)
    changes = ["data.comment_column=text", "data.title_column=null", "data.tasks.sentiment.column=mood", "data.tasks.polarization=null"]
    sets = [part for change in changes for part in ("--set", change)]
    status, shown, error = polarity("evaluate", folder / "first", "--data", tmp_path / "other.csv", "--json", *sets)
    assert status == 0, error
    assert list(json.loads(shown)["test"]["tasks"]) == ["sentiment"]


def test_files_and_runs_that_cannot_be_judged(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    (tmp_path / "columns.csv").write_text("Title,Coment,Final Sentiment,Final Polarization\na,b,positive,partisan\n")
    (tmp_path / "labels.csv").write_text("Title,Comment,Final Sentiment,Final Polarization\na,b,happy,partisan\n")
    (tmp_path / "empty.csv").write_text("")
    new = folder / "new.csv"
    relabelled = "data.tasks.sentiment.labels=[positive, negative]"
    for arguments, words in (
        ([folder / "first", "--data", tmp_path / "columns.csv"], "did you mean 'Coment'"),
        ([folder / "first", "--data", tmp_path / "labels.csv"], "unknown label"),
        ([folder / "first", "--data", tmp_path / "empty.csv"], "empty.csv"),
        ([folder / "first", "--data", tmp_path / "nowhere.csv"], "nowhere.csv"),
        ([folder / "nowhere", "--data", new], "no run here"),
        ([folder / "first", "--data", new, "--votes", "maen"], "did you mean 'mean'"),
        ([folder / "first", "--data", new, "--out", new], "is a file"),
        ([folder / "first", "--data", new, "--set", "data.coment_column=x"], "data.coment_column"),
        ([folder / "first", "--data", new, "--set", relabelled], "cannot judge the task 'sentiment'"),
    ):
        status, _, error = polarity("evaluate", *arguments, "--out", tmp_path / "out", *arguments[3:])
        assert status == 2 and error.startswith("error: ") and words in error, error
        assert not (tmp_path / "out").exists()


def test_compare_on_the_runs_own_rows(folder: Path, polarity: Polarity) -> None:
    status, shown, _ = polarity("compare", folder / "first", folder / "second")
    first, rest = shown.split("F1 ", 1)
    assert status == 0 and first.startswith("60 test rows: second does worse than first, by more than chance explains. Overall macro-")
    assert shown.count("non_polarized") == 1 and "60 validation rows: no verdict (on rows that chose it)" in rest.replace("\n", " ")
    assert len(shown.splitlines()) <= 23
    status, shown, _ = polarity("compare", folder / "first", folder / "second", "--json")
    compared = json.loads(shown)
    assert status == 0 and set(compared["splits"]) == {"validation", "test"}
    for split, content in compared["splits"].items():
        recorded = [json.loads((folder / name / "metrics.json").read_text())[split] for name in ("first", "second")]
        assert content["first"]["overall"] == pytest.approx(recorded[0]["overall"]["macro_f1"])
        change = recorded[1]["overall"]["macro_f1"] - recorded[0]["overall"]["macro_f1"]
        assert content["difference"]["overall"]["difference"] == pytest.approx(change)
        for task, classes in content["difference"]["per_class"].items():
            for label, difference in classes.items():
                f1 = [each["tasks"][task]["per_class"][label]["f1"] for each in recorded]
                assert difference["difference"] == pytest.approx(f1[1] - f1[0])
                assert difference["ci95"][0] <= difference["difference"] <= difference["ci95"][1]


def test_compare_on_a_file_and_between_evaluations(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    for name in ("first", "second"):
        assert polarity("evaluate", folder / name, "--data", folder / "new.csv", "--out", tmp_path / name)[0] == 0
    by_file = polarity("compare", folder / "first", folder / "second", "--data", folder / "new.csv", "--json")
    by_folder = polarity("compare", tmp_path / "first", tmp_path / "second", "--json")
    assert by_file[0] == by_folder[0] == 0
    assert json.loads(by_file[1])["splits"] == json.loads(by_folder[1])["splits"]


def test_runs_that_cannot_be_compared(folder: Path, tmp_path: Path, polarity: Polarity) -> None:
    other = tmp_path / "other"
    assert polarity("evaluate", folder / "first", "--data", folder / "new.csv", "--out", other)[0] == 0
    status, _, error = polarity("compare", folder / "first", other)
    assert status == 2 and "test: the two sides must hold the same rows" in error
    table = pq.read_table(other / "predictions.parquet")
    known = table["sentiment_label"].to_pylist()
    changed = ["neutral" if label == "negative" else label for label in known]
    relabelled = RunFolder.create(tmp_path / "relabelled")
    relabelled.write_parquet("predictions.parquet", table.set_column(3, "sentiment_label", [changed]))
    status, _, error = polarity("compare", other, tmp_path / "relabelled")
    assert status == 2 and "different labels of sentiment" in error
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.yaml").write_text("{}")
    assert "has no predictions.parquet" in polarity("compare", other, tmp_path / "bare")[2]
