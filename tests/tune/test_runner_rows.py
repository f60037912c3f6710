"""The rows of a study: effect rows decide nothing, and every arm of a seed sees the same rows in the same order."""

import numpy as np
import pytest

from polarity.data.batch import Corpus, epoch_rows
from polarity.data.split import load_splits
from polarity.errors import ConfigError, DataError
from polarity.strategy import with_settings
from polarity.study import Arm
from polarity.tune.designs import arm_configs
from polarity.tune.runner import check_same_rows, study_rows, token_key
from tests.tune.studies import Inputs, make_inputs, prepared


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("rows"))


def quiet(line: str) -> None:
    """Says nothing."""


def test_effect_rows_are_the_configurations_and_the_inner_ones_come_from_training(inputs: Inputs) -> None:
    config = arm_configs(inputs.base(), [Arm("baseline")])["baseline"]
    splits = load_splits(config.data, quiet)
    rows = study_rows(config, effects_on="validation", say=quiet)
    ids = {name: set(table["row_id"].to_pylist()) for name, table in rows.parts.items()}
    assert ids["test"] == set(splits.validation["row_id"].to_pylist())
    assert ids["train"] | ids["validation"] == set(splits.train["row_id"].to_pylist())
    assert not ids["train"] & ids["validation"]
    assert len(ids["validation"]) == round(0.15 * splits.train.num_rows)
    assert splits.test is not None
    on_test = study_rows(config, effects_on="test", say=quiet)
    assert set(on_test.parts["test"]["row_id"].to_pylist()) == set(splits.test["row_id"].to_pylist())
    assert on_test.parts["train"].equals(rows.parts["train"])
    assert on_test.fingerprint != rows.fingerprint


def test_inner_rows_are_stratified_by_all_labels(inputs: Inputs) -> None:
    config = arm_configs(inputs.base(), [Arm("baseline")])["baseline"]
    parts = study_rows(config, effects_on="validation", say=quiet).parts
    for task in config.labels:
        whole = np.concatenate([parts[name][task].drop_null().to_numpy() for name in ("train", "validation")])
        inner = parts["validation"][task].drop_null().to_numpy()
        expected = np.bincount(whole, minlength=3) * len(inner) / len(whole)
        assert np.abs(np.bincount(inner, minlength=3) - expected).max() <= 3


def test_rows_depend_on_the_split_seed_and_not_on_the_run_seed(inputs: Inputs) -> None:
    config = arm_configs(inputs.base(), [Arm("baseline")])["baseline"]
    first = study_rows(config, effects_on="validation", say=quiet)
    assert study_rows(with_settings(config, {"train.seed": 9}), effects_on="validation", say=quiet).fingerprint == first.fingerprint
    assert study_rows(with_settings(config, {"data.split.seed": 9}), effects_on="validation", say=quiet).fingerprint != first.fingerprint


def test_titles_are_the_unit_where_no_title_of_an_effect_row_was_trained_on(inputs: Inputs) -> None:
    def unit(*sets: str) -> str:
        return study_rows(arm_configs(inputs.base(*sets), [Arm("baseline")])["baseline"], effects_on="validation", say=quiet).unit

    assert (unit("data.split.kind=joint"), unit("data.split.kind=group")) == ("row", "title")


def test_arms_of_a_seed_see_the_same_rows_in_the_same_order(inputs: Inputs) -> None:
    arms = [
        Arm("baseline"),
        Arm("focal", (6,), reference="baseline"),
        Arm("short", sets={"data.max_length": 48}, reference="baseline"),
        Arm("grown", (2,), reference="baseline"),
    ]
    ready = prepared(inputs, arms)
    assert len(ready.tokens) == 2  # only the shorter texts are tokenized again
    orders = {}
    for name, config in ready.configs.items():
        table = ready.tokens[token_key(config)]["train"]
        seeded = with_settings(config, {"train.seed": 3})
        rows = epoch_rows(Corpus.from_table(table, list(config.labels), 0), seeded, 1)
        orders[name] = table["row_id"].take(rows).to_pylist()
    assert orders["focal"] == orders["baseline"] == orders["short"]
    assert orders["grown"] != orders["baseline"]  # that is what the arm is about
    assert set(orders["grown"]) == set(orders["baseline"])
    assert max(ready.tokens[token_key(ready.configs["short"])]["train"]["input_ids"].combine_chunks().value_lengths().to_numpy()) <= 48


@pytest.mark.parametrize(
    ("sets", "named"),
    [({"data.split.seed": 1}, "data.split"), ({"data.duplicates": "allow"}, "data.duplicates"), ({"cluster.workers": 2}, "cluster")],
)
def test_an_arm_with_other_rows_or_another_place_is_refused(inputs: Inputs, sets: dict[str, object], named: str) -> None:
    configs = arm_configs(inputs.base(), [Arm("baseline"), Arm("other", sets=sets, reference="baseline")])
    with pytest.raises(ConfigError, match=f"the arm other changes {named}"):
        check_same_rows(configs, "baseline")


def test_a_class_too_rare_for_an_inner_part_is_named(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polarity.tune.runner.INNER_SHARE", 0.01)
    config = arm_configs(inputs.base(), [Arm("baseline")])["baseline"]
    with pytest.raises(DataError, match="inner validation rows of the study have no row of"):
        study_rows(config, effects_on="validation", say=quiet)


def test_effects_on_rows_that_are_not_there(inputs: Inputs) -> None:
    config = arm_configs(inputs.base("data.split.test=0.0"), [Arm("baseline")])["baseline"]
    with pytest.raises(ConfigError, match="--effects-on test"):
        study_rows(config, effects_on="test", say=quiet)
