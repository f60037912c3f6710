import json
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from polarity.config import Config
from polarity.data.ledger import build_ledger
from polarity.errors import DataError

PLAN = [673, 128, 3332, 998, 227, 649, 271, 50, 647]
NOW = {
    "oversample": {"alpha": 0.5, "max_multiplier": 4.0, "boosts": {"polarization": {"objective": 2.5}}},
    "weights": {"max_weight": 6.0, "multipliers": {"polarization": {"objective": 1.5}}},
}
NEW = {
    "oversample": {
        "alpha": 0.7,
        "max_multiplier": 8.0,
        "stratified": True,
        "boosts": {"polarization": {"objective": 6.0}, "sentiment": {"neutral": 2.5}},
    },
    "weights": {"max_weight": 10.0, "multipliers": {"polarization": {"non_polarized": 1.2, "objective": 2.5, "partisan": 0.95}}},
}
OFF = {"oversample": {"alpha": 0.0, "max_multiplier": 1.0}, "weights": {"strength": 0.0}}


def train() -> pa.Table:
    pairs = [pair for pair, n in zip(product(range(3), range(3)), PLAN, strict=True) for _ in range(n)]
    labels = {name: pa.array([pair[i] for pair in pairs], pa.int8()) for i, name in enumerate(("sentiment", "polarization"))}
    return pa.table({"row_id": pa.array([str(i) for i in range(len(pairs))], pa.large_string()), **labels})


def config(setting: dict[str, Any], basis: str = "raw", **loss: Any) -> Config:
    weights = {**setting["weights"], "basis": basis}
    return Config.model_validate({"data": {"oversample": setting["oversample"]}, "loss": {"class_weights": weights, **loss}})


@pytest.mark.parametrize(
    ("setting", "basis", "percent"),
    [(NOW, "raw", [17, 67, 16]), (NEW, "raw", [13, 80, 7]), (NOW, "resampled", [29, 43, 29]), (NEW, "resampled", [26, 54, 20])],
)
def test_effective_priors_of_the_strategy(setting: dict[str, Any], basis: str, percent: list[int]) -> None:
    prior = [entry.effective_prior for entry in build_ledger(train(), config(setting, basis)).tasks["polarization"]]
    np.testing.assert_allclose(np.array(prior) * 100, percent, atol=0.61)  # STRATEGY.md says "about", in whole percent
    assert sum(prior) == pytest.approx(1)


def test_counts_shares_and_weights_by_hand() -> None:
    ledger = build_ledger(train(), config(NOW))
    assert ledger.task_statistics["polarization"].counts == [1942, 405, 4628]
    # u is 4 for objective, 1 elsewhere but for the 271 rows, where it is 1 + 0.5 (647/271 - 1): (271 + 647) / 2 rows
    sampled = np.array([673 + 998 + 459, 4 * 405, 4628])
    np.testing.assert_allclose(ledger.task_statistics["polarization"].sampled_prior, sampled / sampled.sum())
    np.testing.assert_allclose(ledger.task_statistics["polarization"].class_weights, [6975 / (3 * 1942), 6.0, 6975 / (3 * 4628)])
    assert ledger.epoch_rows == pytest.approx(8378)
    assert build_ledger(train(), config(NEW)).epoch_rows == 12544


def test_says_which_caps_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    ledger = build_ledger(train(), config(NOW))
    assert {stratum.labels["polarization"] for stratum in ledger.strata if stratum.capped} == {"objective"}
    assert [entry.name for entry in ledger.tasks["polarization"] if entry.weight_capped] == ["objective"]
    text = ledger.render()
    assert text.count("cap 4 binds") == 3
    assert "its boost and alpha change nothing" in text
    assert "6 binds on 8.61" in text


def test_warns_of_a_double_correction_and_by_how_much() -> None:
    warnings = build_ledger(train(), config(NOW, focal_gamma={"polarization": 1.5})).warnings
    (twice,) = [w for w in warnings if w.startswith("polarization.objective") and "corrected twice" in w]
    for figure in (
        "5.8% of the rows",
        "19.3% of the sampled rows",
        "66.6% of the loss",
        "x3.3",
        "x3.4 again",
        "x2.0 of an even",
        "gives 42.9%",
    ):
        assert figure in twice
    assert "third correction" in twice
    resampled = build_ledger(train(), config(NOW, "resampled")).warnings
    assert not [w for w in resampled if "corrected twice" in w]


def test_warns_where_a_rarer_class_ends_above(monkeypatch: pytest.MonkeyPatch) -> None:
    (warning,) = [
        w for w in build_ledger(train(), config(NEW)).warnings if "of the loss, above" in w and w.startswith("polarization.objective")
    ]
    assert "non_polarized" in warning and "partisan" in warning
    monkeypatch.setattr("polarity.data.ledger._OVERTAKES", 20.0)
    assert not [w for w in build_ledger(train(), config(NEW)).warnings if "of the loss, above" in w]


def test_logit_adjustment_beside_weights_is_a_second_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    ledger = build_ledger(train(), config(NOW, "resampled", logit_adjustment=1.0))
    assert any("logit adjustment" in w and w.startswith("polarization.objective") for w in ledger.warnings)
    assert "adjusted prior" in ledger.render()
    # alone, tau = 1 makes the classes even
    alone = build_ledger(train(), config({**NOW, "weights": {"strength": 0.0}}, logit_adjustment=1.0))
    np.testing.assert_allclose([entry.adjusted_prior for entry in alone.tasks["polarization"]], 1 / 3)
    assert alone.warnings == []


def test_nothing_on_changes_nothing_and_warns_of_nothing() -> None:
    ledger = build_ledger(train(), config(OFF))
    assert ledger.warnings == []
    assert ledger.epoch_rows == 6975
    np.testing.assert_allclose([e.effective_prior * 6975 for e in ledger.tasks["sentiment"]], [e.rows for e in ledger.tasks["sentiment"]])
    assert "binds" not in ledger.render()


def test_missing_labels_are_counted_for_the_other_task_only() -> None:
    few = pa.table(
        {
            "row_id": pa.array(list("abcdef"), pa.large_string()),
            "sentiment": pa.array([0, 1, 2, None, None, None], pa.int8()),
            "polarization": pa.array([None, None, 0, 0, 1, 2], pa.int8()),
        }
    )
    ledger = build_ledger(few, config(OFF))
    assert ledger.task_statistics["sentiment"].counts == [1, 1, 1]
    assert ledger.task_statistics["polarization"].counts == [2, 1, 1]
    assert " - " in ledger.render()


def test_counts_of_the_rows_are_in_the_order_of_the_classes_that_are_asked_for() -> None:
    found = build_ledger(train(), config(NOW)).counts(
        {"polarization": ["partisan", "objective", "non_polarized"], "sentiment": ["positive", "mixed"], "topic": ["any"]}
    )
    assert found == {"polarization": [4628, 405, 1942]}


def test_is_json_and_refuses_a_class_without_rows() -> None:
    ledger = build_ledger(train(), config(NOW))
    read = json.loads(json.dumps(asdict(ledger)))
    assert read["tasks"]["polarization"][1]["rows"] == 405
    with pytest.raises(DataError, match=r"polarization is 'objective'"):
        build_ledger(train().filter(pc.not_equal(train()["polarization"], 1)), config(NOW))
