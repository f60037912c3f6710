"""The model card: what Hugging Face's own reader finds in it, and that its numbers are the run's."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from polarity.artifacts import RunFolder
from polarity.report.card import plain, render_card
from polarity.report.page import ReportError
from polarity.report.record import read_record
from tests.report.reported import HOSTILE_TITLE, copied_run, trained_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def text() -> str:
    return render_card(read_record(RunFolder.open(trained_run())))


def test_header_is_read_by_the_hub_and_holds_the_scores(text: str) -> None:
    card = ModelCard(text)
    metrics = json.loads((trained_run() / "metrics.json").read_text())["test"]
    assert card.data.library_name == "polarity" and card.data.pipeline_tag == "text-classification"
    assert card.data.base_model is None  # a folder of this machine is no model of the hub
    stated = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert stated["macro-F1, overall"] == pytest.approx(metrics["overall"]["macro_f1"], abs=1e-4)
    assert stated["macro-F1, sentiment"] == pytest.approx(metrics["tasks"]["sentiment"]["macro_f1"], abs=1e-4)


def test_card_says_what_a_user_must_know(text: str) -> None:
    for heading in ("Intended use", "How to load it", "Scores", "Data", "Limits", "How it was made"):
        assert f"\n## {heading}\n" in text
    metrics = json.loads((trained_run() / "metrics.json").read_text())["test"]
    for task, scores in metrics["tasks"].items():
        low, high = scores["ci95"]
        assert f"{scores['macro_f1']:.3f} [{low:.3f}, {high:.3f}]" in text
        for label, of_class in scores["per_class"].items():
            assert f"| {task} | {label} | {of_class['f1']:.3f}" in text
    assert "linear floor" in text and "title floor" in text and "polarity.load(" in text
    assert "SYNTHETIC" not in text


def test_card_travels_without_texts_and_folders(text: str) -> None:
    assert HOSTILE_TITLE not in text and "alert" not in text and str(trained_run().parent) not in text


def test_tables_have_as_many_cells_as_columns(text: str) -> None:
    block: list[int] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line.replace("\\|", "").count("|"))
        else:
            assert len(set(block)) <= 1
            block = []


def test_synthetic_model_is_called_synthetic(tmp_path: Path) -> None:
    run = copied_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["data"] = "SYNTHETIC sample corpus"
    (run / "metrics.json").write_text(json.dumps(metrics))
    card = render_card(read_record(RunFolder.open(run)))
    assert "SYNTHETIC SAMPLE CORPUS" in card and "The plan's minimum targets" not in card


def test_calibrated_model_says_so(tmp_path: Path, text: str) -> None:
    run = copied_run(tmp_path / "run")
    tasks = {"sentiment": {"temperature": 1.4, "biases": None}, "polarization": {"temperature": 1.0, "biases": None}}
    (run / "model" / "calibration.json").write_text(json.dumps({"schema_version": 1, "tasks": tasks}))
    card = " ".join(render_card(read_record(RunFolder.open(run))).split())
    assert "a temperature each for sentiment, and no class biases, fitted" in card and "calibration.json" not in text
    tasks["polarization"]["biases"] = [0.1, 0.2, -0.3]
    (run / "model" / "calibration.json").write_text(json.dumps({"schema_version": 1, "tasks": tasks}))
    card = " ".join(render_card(read_record(RunFolder.open(run))).split())
    assert "each for polarization and sentiment and class biases for polarization, fitted" in card
    tasks = {"sentiment": {"temperature": 1.0, "biases": None, "note": "12 labelled rows are too few"}}
    (run / "model" / "calibration.json").write_text(json.dumps({"schema_version": 1, "tasks": tasks}))
    assert "temperature" not in render_card(read_record(RunFolder.open(run))), "nothing was fitted"


def test_no_card_of_figures_that_disagree(tmp_path: Path) -> None:
    run = copied_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"]["tasks"]["sentiment"]["per_class"]["neutral"]["f1"] += 0.001
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ReportError, match=r"per_class\.neutral\.f1"):
        render_card(read_record(RunFolder.open(run)))


def test_names_end_no_cell_and_begin_no_tag() -> None:
    assert plain("a|b <i>\n") == "a\\|b &lt;i> "
