"""A run's report: true to the predictions or refused, hostile comments as text, nothing told that it may not tell."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from polarity.artifacts import RunFolder
from polarity.cli.runs import report as report_command
from polarity.errors import PolarityError, RunError
from polarity.report.page import ReportError
from polarity.report.record import Record, read_record
from polarity.report.run import duration, nearest_preset, render_record, short_path
from polarity.report.run_rows import label_errors
from polarity.report.run_scores import projection
from polarity.workflows.report import read_texts, report
from tests.report.reported import HOSTILE, copied_run, trained_run
from tests.report.test_charts import Balanced

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def record() -> Record:
    return read_record(RunFolder.open(trained_run()))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the trained run, made by the command's own function."""
    run = copied_run(tmp_path_factory.mktemp("page") / "run")
    return Path(report(str(run), say=lambda line: None)).read_text(encoding="utf-8")


def spoil(run: Path, **changes: float) -> None:
    """Changes numbers of the heading split's overall score in metrics.json."""
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"]["overall"].update(changes)
    (run / "metrics.json").write_text(json.dumps(metrics))


def test_verdict_comes_first_and_is_the_metrics_own(page: str) -> None:
    overall = json.loads((trained_run() / "metrics.json").read_text())["test"]["overall"]
    first = page[page.index("<h1>") : page.index("<nav")]
    assert f"{overall['macro_f1']:.3f}" in first and f"[{overall['ci95'][0]:.3f}, {overall['ci95'][1]:.3f}]" in first
    assert "minimum targets" in first and "floor" in first


def test_every_part_is_there_and_the_page_is_whole(page: str) -> None:
    read = Balanced(page)
    assert read.tags.isdisjoint({"script", "img", "link", "iframe"})
    assert not re.search(r"(src|href)=\"(?!#)", page)
    parts = ["verdict", "scores", "classes", "confusion", "curves", "calibration", "ledger", "slices", "errors", "labels"]
    parts += ["configuration", "reproduce"]
    assert [found for found in re.findall(r'<section id="(\w+)"', page) if found in parts] == parts
    assert "polarity train" in page and "sha256" in page and "preset small" in page


def test_hostile_comments_and_titles_are_shown_as_text(page: str) -> None:
    read = Balanced(page)
    assert "b" in read.tags and "onmouseover" not in read.attributes and "onerror" not in read.attributes
    assert "<script" not in page and "<img" not in page
    assert HOSTILE in html.unescape(page)


def test_shared_page_has_no_texts_and_no_folders(record: Record, tmp_path: Path) -> None:
    shared = html.unescape(render_record(read_record(RunFolder.open(trained_run())), texts=False, comments=read_texts(record, say=print)))
    for row in record.run.rows("test").to_pylist():
        assert row["title"] not in shared
    assert "alert" not in shared and str(trained_run().parent) not in shared and "comments.csv" in shared
    assert "Texts were left out" in shared and "title 1" in shared


def test_report_refuses_what_it_cannot_recompute(tmp_path: Path) -> None:
    run = copied_run(tmp_path / "run")
    score = json.loads((run / "metrics.json").read_text())["test"]["overall"]["macro_f1"]
    spoil(run, macro_f1=score + 0.01)
    with pytest.raises(ReportError, match=r"test\.overall\.macro_f1"):
        report(str(run), say=print)
    assert not (run / "report.html").exists()
    spoil(run, macro_f1=score, ci95=[score, score])
    with pytest.raises(ReportError, match="ci95"):
        report(str(run), say=print)


def test_report_refuses_predictions_that_were_changed(tmp_path: Path) -> None:
    run = copied_run(tmp_path / "run")
    table = pq.read_table(run / "predictions.parquet")
    values = table["sentiment_prediction"].to_pylist()
    at = max(i for i, label in enumerate(table["sentiment_label"].to_pylist()) if label is not None and table["split"][i].as_py() == "test")
    values[at] = next(name for name in ("negative", "neutral", "positive") if name != values[at])
    index = table.schema.get_field_index("sentiment_prediction")
    pq.write_table(table.set_column(index, "sentiment_prediction", pa.array(values)), run / "predictions.parquet")
    with pytest.raises(ReportError, match="cannot be recomputed"):
        report(str(run), say=print)


def test_verdict_that_was_changed_is_refused(tmp_path: Path) -> None:
    run = copied_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"]["verdict"]["minimum"][0]["verdict"] = "met"
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ReportError, match=r"verdict\.minimum"):
        report(str(run), say=print)


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        report(str(tmp_path), say=print)


def test_intervals_of_another_numpy_may_differ_a_little(tmp_path: Path) -> None:
    run = copied_run(tmp_path / "run")
    environment = json.loads((run / "environment.json").read_text())
    environment["packages"]["numpy"] = "2.0.0"
    (run / "environment.json").write_text(json.dumps(environment))
    overall = json.loads((run / "metrics.json").read_text())["test"]["overall"]
    low, high = overall["ci95"]
    spoil(run, ci95=[low + 0.1 * (high - low), high])
    read_record(RunFolder.open(run))
    spoil(run, ci95=[low + 0.4 * (high - low), high])
    with pytest.raises(ReportError, match="ci95"):
        read_record(RunFolder.open(run))


def test_changed_or_missing_data_is_told_in_the_page(tmp_path: Path) -> None:
    run = copied_run(tmp_path / "run")
    config = (run / "config.yaml").read_text()
    data = trained_run().parent / "comments.csv"
    moved = tmp_path / "comments.csv"
    moved.write_bytes(data.read_bytes() + b"r9999,title,one more,negative,partisan\n")
    (run / "config.yaml").write_text(config.replace(str(data), str(moved)))
    environment = (run / "environment.json").read_text()
    (run / "environment.json").write_text(environment.replace(str(data), str(moved)))
    lines: list[str] = []
    text = html.unescape(Path(report(str(run), say=lines.append)).read_text())
    assert "its hash differs" in text and HOSTILE not in text and any("hash differs" in line for line in lines)
    moved.unlink()
    text = html.unescape(Path(report(str(run), say=lines.append)).read_text())
    assert "could not be read again" in text and HOSTILE not in text


def test_synthetic_data_is_said_in_big_letters_and_has_no_plan_beside_it(tmp_path: Path, page: str) -> None:
    run = copied_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["data"] = "SYNTHETIC sample corpus"
    (run / "metrics.json").write_text(json.dumps(metrics))
    synthetic = Path(report(str(run), say=print)).read_text()
    assert re.search(r'class="banner"[^>]*>SYNTHETIC SAMPLE CORPUS', synthetic) and 'class="banner"' not in page
    for words in ("the plan's baseline", "minimum target", "stretch target"):
        assert words in html.unescape(page) and words not in html.unescape(synthetic)


def test_calibration_is_drawn_where_the_run_has_one(tmp_path: Path, page: str) -> None:
    run = copied_run(tmp_path / "run")
    after = {"ece": 0.04321, "ci95": [0.0, 0.0876], "noise": 0.05, "noise95": 0.0654, "evidence": False}
    tasks = {"sentiment": {"temperature": 1.4, "biases": [0.1, -0.1, 0.0], "calibration_error": {"after": after}}}
    (run / "model" / "calibration.json").write_text(json.dumps({"schema_version": 1, "tasks": tasks}))
    calibrated = Path(report(str(run), say=print)).read_text()
    assert "0.043 [0.000, 0.088]; no evidence, chance gives up to 0.065" in calibrated
    assert ">calibrated<" in calibrated and ">calibrated<" not in page


def test_command_writes_page_and_card(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report_command)
    run = copied_run(tmp_path / "run")
    done = CliRunner().invoke(app, [str(run), "--no-texts"])
    assert done.exit_code == 0, done.output
    assert "report.html" in done.output and (run / "model" / "README.md").is_file()
    assert "alert" not in (run / "report.html").read_text()
    wrong = CliRunner().invoke(app, [str(tmp_path / "nothing")])
    assert isinstance(wrong.exception, PolarityError)


def test_evaluation_of_a_file_has_its_report_too(tmp_path: Path) -> None:
    """What `polarity evaluate --out` writes: scores and predictions, no configuration and no training."""
    folder = tmp_path / "judged"
    folder.mkdir()
    metrics = json.loads((trained_run() / "metrics.json").read_text())
    about = {"run": "runs/first", "data": "more.csv", "calibrated": True, "votes": None, "calibration_rows": 36, "notes": ["other lengths"]}
    (folder / "metrics.json").write_text(json.dumps({"schema_version": 1, "test": metrics["test"], "evaluation": about}))
    table = pq.read_table(trained_run() / "predictions.parquet")
    pq.write_table(table.filter(pc.equal(table["split"], "test")), folder / "predictions.parquet")
    text = Path(report(str(folder), say=print)).read_text()
    assert "other lengths" in text and "polarity evaluate runs/first --data more.csv" in text
    assert 'id="curves"' not in text and not (folder / "model").exists()


def test_report_needs_no_torch() -> None:
    script = (
        "import sys, polarity.report.run, polarity.report.card; print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]"


def test_nearest_preset_lists_what_the_run_set(record: Record) -> None:
    preset, changed = nearest_preset(record)
    assert preset == "small"
    assert changed["train.epochs"][1] == 2 and "optim.lr" not in changed


def test_projection_is_the_plans_own() -> None:
    assert projection(())[0] is None
    assert projection((1, 2, 3))[0] == pytest.approx((0.68, 0.70))
    assert projection((6,))[0] == pytest.approx((0.617, 0.627))
    assert projection(tuple(range(1, 11)))[0] == pytest.approx((0.607 + 0.16, 0.607 + 0.25))


def test_likely_label_errors_by_hand() -> None:
    """Class thresholds: 0 is (0.9 + 0.8 + 0.1) / 3 = 0.6, 1 is (0.9 + 0.7 + 0.65) / 3 = 0.75; only row 2 is confidently another."""
    labels = np.array([0, 0, 0, 1, 1, 1, -1])
    ones = np.array([0.1, 0.2, 0.9, 0.9, 0.7, 0.65, 0.99])
    found = label_errors(labels, np.stack([1 - ones, ones], axis=1))
    assert found.rows.tolist() == [2] and found.suggested.tolist() == [1]


@pytest.mark.parametrize("seed", range(6))
def test_likely_label_errors_are_cleanlabs(seed: int) -> None:
    cleanlab = pytest.importorskip("cleanlab.filter")
    rng = np.random.default_rng(seed)
    classes, rows = 2 + seed % 3, 300
    true = rng.integers(0, classes, rows)
    probabilities = 0.6 * rng.dirichlet(np.ones(classes), rows)
    probabilities[np.arange(rows), true] += 0.4
    given = np.where(rng.random(rows) < 0.15, (true + 1) % classes, true)
    theirs = cleanlab.find_label_issues(
        given, probabilities, filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert label_errors(given, probabilities).rows.tolist() == list(theirs)


def test_names_of_places_and_times() -> None:
    assert [short_path(p) for p in ("/a/b/c.csv", "sample:3000", "some/encoder")] == ["c.csv", "sample:3000", "some/encoder"]
    assert [duration(s) for s in (47, 720, 11100)] == ["47 s", "12 min", "3 h 05 min"]
