"""Calibration against what is known: probabilities made too hot by a known temperature, priors moved by known odds, and by hand."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import f1_score, log_loss

from polarity.artifacts import CALIBRATION, PREDICTIONS, RunFolder
from polarity.errors import DataError, RunError
from polarity.evaluate.calibration import (
    apply,
    calibrate,
    calibration_error,
    fit_biases,
    fit_temperature,
    gain_of,
    read_calibration,
    reliability,
    risk_coverage,
)
from polarity.evaluate.calibration import log_loss as own_log_loss
from polarity.evaluate.predictions import build_predictions
from polarity.workflows.train import calibrate_run
from tests.evaluate.judged import PLAN, judged

CLASSES = {"sentiment": PLAN["sentiment"]}


def drawn(rows: int, seed: int = 0, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, 3) and labels drawn from their very softmax: perfectly calibrated at temperature 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 3)) * scale
    return logits, (softmax(logits, axis=1).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)


def table(probabilities: np.ndarray, labels: np.ndarray, split: str = "validation") -> pa.Table:
    rows = len(labels)
    comments = pa.table(
        {"row_id": [f"{split}{i}" for i in range(rows)], "title": [""] * rows, "sentiment": pa.array(labels.astype(np.int8), pa.int8())}
    )
    return build_predictions(split, comments, {"sentiment": probabilities}, CLASSES)


@pytest.mark.parametrize("sharpened", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(sharpened: float) -> None:
    logits, labels = drawn(20_000)
    found = fit_temperature(softmax(logits * sharpened, axis=1), labels)
    assert found == pytest.approx(sharpened, rel=0.04)


def test_temperature_has_the_least_loss_of_scikit_learn() -> None:
    logits, labels = drawn(500, seed=3)
    probabilities = softmax(logits * 1.7, axis=1)
    best = fit_temperature(probabilities, labels)

    def loss(temperature: float) -> float:
        return float(log_loss(labels, apply(probabilities, temperature, None)[0], labels=[0, 1, 2]))

    assert loss(best) <= min(loss(best * 1.02), loss(best / 1.02))
    assert own_log_loss(apply(probabilities, best, None)[0], labels) == pytest.approx(loss(best), rel=1e-6)


@given(st.floats(0.1, 10.0), st.integers(0, 1000))
def test_a_temperature_moves_no_class_and_keeps_sums(temperature: float, seed: int) -> None:
    probabilities = softmax(np.random.default_rng(seed).normal(size=(20, 4)), axis=1)
    calibrated, predicted = apply(probabilities, temperature, None)
    assert np.array_equal(predicted, probabilities.argmax(axis=1))
    assert calibrated.sum(axis=1) == pytest.approx(np.ones(20))
    assert apply(probabilities, 1.0, None)[0] == pytest.approx(probabilities)


def test_biases_by_hand_leave_probabilities_alone() -> None:
    calibrated, predicted = apply(np.array([[0.6, 0.4], [0.8, 0.2]]), 1.0, [0.0, np.log(2.0)])
    assert predicted.tolist() == [1, 0]  # 0.6 against 0.8, and 0.8 against 0.4
    assert calibrated == pytest.approx(np.array([[0.6, 0.4], [0.8, 0.2]]))


def test_ece_and_reliability_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
    labels = np.array([0, 1, 0, 1])
    # Two bins of two rows: {0.6, 0.7}, both right, and {0.8, 0.9}, one right.
    assert calibration_error(probabilities, labels, bins=2)["ece"] == pytest.approx(0.5 * abs(0.65 - 1.0) + 0.5 * abs(0.85 - 0.5))
    bars = reliability(probabilities, labels, bins=2)
    assert [(b["rows"], b["accuracy"]) for b in bars] == [(2, 1.0), (2, 0.5)]
    assert all(b["ci95"][0] <= b["accuracy"] <= b["ci95"][1] + 1e-12 for b in bars)


def test_risk_coverage_by_hand() -> None:
    confidence = np.linspace(0.99, 0.61, 20)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.where(np.arange(20) < 15, 0, 1)  # the five least sure are wrong
    points = {round(p["coverage"], 2): p for p in risk_coverage(probabilities, np.zeros(20, np.int64), labels)}
    assert points[0.75]["risk"] == 0.0 and points[1.0]["risk"] == pytest.approx(0.25) and points[0.8]["risk"] == pytest.approx(1 / 16)
    assert points[0.5]["threshold"] == pytest.approx(confidence[9])


def test_biases_are_the_best_that_a_grid_finds() -> None:
    """Two classes have one free bias, so a fine grid sees every macro-F1 that there is."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(200, 2)) + np.array([1.5, 0.0])
    labels = (rng.random(200) < 0.3).astype(np.int64)
    logits[np.arange(200), labels] += 1.0
    logs = np.log(softmax(logits, axis=1))
    biases = fit_biases(logs, labels)
    grid = [f1_score(labels, (logs[:, 1] + b > logs[:, 0]).astype(int), average="macro") for b in np.linspace(-6, 6, 601)]
    assert f1_score(labels, (logs + biases).argmax(axis=1), average="macro") >= max(grid) - 1e-9
    assert sum(biases) == pytest.approx(0.0)


def test_biases_never_lower_macro_f1_on_their_own_rows() -> None:
    for seed in range(5):
        logits, labels = drawn(150, seed)
        before = f1_score(labels, logits.argmax(axis=1), average="macro")
        assert f1_score(labels, (logits + fit_biases(logits, labels)).argmax(axis=1), average="macro") >= before - 1e-12


def test_moved_priors_are_given_biases_and_sound_ones_are_not() -> None:
    """Odds of a class cut by e^2, as training on a skewed sample does: biases help. On sound probabilities they are noise."""
    logits, labels = drawn(2000, seed=1)
    moved = calibrate(table(softmax(logits - [0.0, 0.0, 2.0], axis=1), labels), CLASSES)["tasks"]["sentiment"]
    assert moved["bias_gain"]["kept"] and moved["biases"][2] > moved["biases"][0] + 1.0
    kept = [
        calibrate(table(softmax(lo, axis=1), la), CLASSES)["tasks"]["sentiment"]["biases"] for lo, la in (drawn(400, s) for s in range(6))
    ]
    assert sum(biases is not None for biases in kept) <= 2


def test_cross_fitted_error_falls_on_hot_probabilities() -> None:
    logits, labels = drawn(1500, seed=2)
    entry = calibrate(table(softmax(3 * logits, axis=1), labels), CLASSES)["tasks"]["sentiment"]
    assert entry["ece_before"] > 0.08 and entry["ece_after"] < 0.04 and entry["nll_after"] < entry["nll_before"]
    assert entry["temperature"] == pytest.approx(3.0, rel=0.15)
    assert sum(bar["rows"] for bar in entry["reliability"]["after"]) == 1500
    risks = [point["risk"] for point in entry["risk_coverage"]]
    assert risks[0] < risks[-1]


def test_a_vote_is_what_biases_must_beat() -> None:
    """The predictions' own classes, not the argmax, are the ones before."""
    labels = np.array([0, 1] * 50)
    gain = gain_of(labels, labels.copy(), [np.zeros(100, np.int64)] * 2, 2, seed=0)
    assert gain["macro_f1_before"] == 1.0 and gain["macro_f1_after"] == pytest.approx(1 / 3) and not gain["kept"]


def test_few_rows_and_rare_classes_are_left_alone() -> None:
    logits, labels = drawn(30)
    few = calibrate(table(softmax(logits, axis=1), labels), CLASSES)["tasks"]["sentiment"]
    assert few["temperature"] == 1.0 and few["biases"] is None and "too few" in few["note"]
    logits, labels = drawn(200)
    labels = np.where(labels == 2, 0, labels)
    labels[:3] = 2
    rare = calibrate(table(softmax(logits, axis=1), labels), CLASSES)["tasks"]["sentiment"]
    assert rare["biases"] is None and "3 rows" in rare["note"] and rare["ece_after"] >= 0


def run_folder(tmp_path: Path, predictions: pa.Table) -> RunFolder:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_parquet(PREDICTIONS, predictions)
    return folder


def test_a_run_is_calibrated_on_validation_rows_alone(tmp_path: Path) -> None:
    logits, labels = drawn(600, seed=7)
    validation = table(softmax(2 * logits, axis=1), labels)
    other, other_labels = drawn(300, seed=8)
    test_rows = table(softmax(2 * other, axis=1), other_labels, "test")
    lines: list[str] = []
    folder = run_folder(tmp_path, pa.concat_tables([validation, test_rows]))
    content = calibrate_run(folder, lines.append, labels=CLASSES)
    alone = calibrate(validation, CLASSES)
    assert content["tasks"] == alone["tasks"] and content["fitted_on"] == {"split": "validation", "rows": 600}
    assert content["test"]["sentiment"]["ece_after"] < content["test"]["sentiment"]["ece_before"]
    assert "temperature" in lines[0]
    read = read_calibration(folder, CLASSES)["sentiment"]
    assert read.temperature == pytest.approx(alone["tasks"]["sentiment"]["temperature"]) and read.biases is None


def test_missing_labels_are_left_out_and_all_tasks_fitted() -> None:
    content = calibrate(judged(400, missing=0.3), PLAN)
    assert set(content["tasks"]) == set(PLAN) and all(50 < entry["rows"] < 400 for entry in content["tasks"].values())
    json.dumps(content, allow_nan=False)
    with pytest.raises(DataError, match="no column"):
        calibrate(judged(60).drop_columns(["sentiment_label"]), PLAN)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"temperature": 0, "biases": None}, "above 0"),
        ({"temperature": "hot", "biases": None}, "above 0"),
        ({"temperature": 1.0, "biases": [1.0]}, "3 numbers"),
        ([], "above 0"),
    ],
)
def test_damaged_calibration_is_refused(entry: object, words: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, judged(60))
    folder.write_json(CALIBRATION, {"tasks": {"sentiment": entry}})
    with pytest.raises(RunError, match=words):
        read_calibration(folder, CLASSES)
    folder.write_json(CALIBRATION, {"tasks": {"mood": {"temperature": 1.0}}})
    with pytest.raises(RunError, match="another model"):
        read_calibration(folder, CLASSES)


def test_a_run_without_validation_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no validation rows"):
        calibrate_run(run_folder(tmp_path, judged(60, split="test")), print, labels=PLAN)
