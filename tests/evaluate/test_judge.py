import json
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from judged import PLAN, judged

from polarity.errors import DataError
from polarity.evaluate import Stability, build_metrics, metrics_schema, paired_difference, render_metrics
from polarity.evaluate.results import TRAINING, UNKNOWN

STABILITY: Stability = {"non_finite_steps": 0, "epoch_losses": [2.0, 1.5, 1.2], "best_epoch": 3}


def metrics(labels: dict[str, list[str]] = PLAN, *, by_title: bool = False, rows: int = 300, test: bool = True) -> dict[str, Any]:
    splits = ("validation", "test") if test else ("validation",)
    seeds = {name: index for index, name in enumerate(splits)}
    model = [judged(rows, seeds[s], skill=2.5, labels=labels, split=s, missing=0.05) for s in splits]
    model.append(judged(rows, 5, labels=labels, split="train"))
    floors = {
        s: {
            name: judged(rows, seeds[s], skill=skill, labels=labels, split=s, missing=0.05, noise_seed=3)
            for name, skill in (("majority", 0.0), ("title", 0.5), ("linear", 1.5))
        }
        for s in splits
    }
    return build_metrics(pa.concat_tables(model), floors, labels, resamples=200, by_title=by_title, stability=STABILITY)


@pytest.mark.parametrize("by_title", [False, True])
@pytest.mark.parametrize("labels", [PLAN, {"topic": ["a", "b"]}, {**PLAN, "third": ["x", "y", "z"]}])
def test_metrics_json_follows_the_published_schema(labels: dict[str, list[str]], by_title: bool) -> None:
    jsonschema.Draft202012Validator.check_schema(metrics_schema())
    written = json.dumps(metrics(labels, by_title=by_title), allow_nan=False)
    jsonschema.validate(json.loads(written), metrics_schema())


def test_the_published_schema_is_the_one_of_the_types() -> None:
    file = files("polarity.evaluate").joinpath("metrics.schema.json")
    assert json.loads(file.read_text(encoding="utf-8")) == metrics_schema(), (
        "write it anew: python -c 'import json; from polarity.evaluate import metrics_schema as s; print(json.dumps(s(), indent=1))'"
    )


@pytest.mark.parametrize("decided", [["the epoch"], [TRAINING], [UNKNOWN]])
def test_there_is_no_verdict_on_rows_that_decided_something(decided: list[str]) -> None:
    model, floor = judged(400, skill=3.0, split="validation"), judged(400, skill=0.5, split="validation")
    tables = {"validation": {"linear": floor}}
    clean, chosen = (
        build_metrics(model, tables, PLAN, resamples=200, by_title=False, decided={"validation": what})["validation"]
        for what in ([], decided)
    )
    words = {"the epoch": "on rows that chose it", TRAINING: "on rows that trained it", UNKNOWN: "on unchecked rows"}[decided[0]]
    assert clean["floors"]["linear"]["difference"]["overall"]["verdict"] == "gain"
    assert chosen["overall"] == clean["overall"]  # the score is the same, and so is its interval
    judgements = [entry for kind in ("minimum", "stretch", "floors", "baseline") for entry in chosen["verdict"][kind]]
    assert len(judgements) > 10 and {entry["verdict"] for entry in judgements} == {words}
    difference = chosen["floors"]["linear"]["difference"]
    assert {entry["verdict"] for entry in [difference["overall"], *difference["tasks"].values()]} == {words}
    jsonschema.validate({"schema_version": 1, "validation": chosen}, metrics_schema())


def test_what_choosing_made_better_is_shown_where_it_can_be_had() -> None:
    model = pa.concat_tables([judged(300, 0, skill=2.5, split="validation"), judged(300, 1, skill=2.0, split="test")])
    found = build_metrics(model, {}, PLAN, resamples=300, by_title=False, decided={"validation": ["the epoch"]})
    scores = [found[split]["overall"]["macro_f1"] for split in ("validation", "test")]
    low, high = found["optimism"]["ci95"]
    assert found["optimism"]["difference"] == pytest.approx(scores[0] - scores[1]) and low < scores[0] - scores[1] < high
    widths = [np.ptp(found[split]["overall"]["ci95"]) for split in ("validation", "test")]
    assert max(widths) < high - low < sum(widths)  # two independent samples
    shown = render_metrics(found)
    assert "validation: chose the epoch" in shown and "Validation less test" in shown
    assert "test: " not in shown.replace("less test", "")
    assert "optimism" not in build_metrics(model, {}, PLAN, resamples=300, by_title=False)


def test_the_schema_refuses_percent_and_unknown_keys() -> None:
    found = metrics(test=False)
    found["validation"]["overall"]["macro_f1"] = 67.0
    with pytest.raises(jsonschema.ValidationError, match="67"):
        jsonschema.validate(found, metrics_schema())
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.validate({**metrics(test=False), "surprise": 1}, metrics_schema())


def test_each_split_has_floors_on_the_same_rows_and_training_rows_judge_nothing() -> None:
    found = metrics()
    assert list(found) == ["schema_version", "validation", "test"]
    for split in ("validation", "test"):
        assert list(found[split]["floors"]) == ["majority", "title", "linear"]
        assert {floor["rows"] for floor in found[split]["floors"].values()} == {found[split]["rows"]} == {300}
        assert [entry["verdict"] for entry in found[split]["verdict"]["floors"]] == ["met", "met", "met"]
    assert found["validation"]["overall"] != found["test"]["overall"]
    assert list(metrics(test=False)) == ["schema_version", "validation"]


def test_the_floors_difference_is_the_paired_one() -> None:
    model, floor = judged(200, skill=2.0), judged(200, skill=1.0)
    found = build_metrics(model, {"validation": {"linear": floor}}, PLAN, resamples=300, by_title=True, seed=4)
    expected = paired_difference(model, floor, PLAN, resamples=300, seed=4, by_title=True)
    assert found["validation"]["floors"]["linear"]["difference"] == expected
    assert found["validation"]["verdict"]["stability"] == []


def test_a_floor_on_other_rows_is_refused() -> None:
    with pytest.raises(DataError, match="same rows"):
        build_metrics(judged(50), {"validation": {"linear": judged(49)}}, PLAN, resamples=100, by_title=False)


def test_training_rows_alone_are_nothing_to_judge() -> None:
    with pytest.raises(DataError, match="nothing to judge"):
        build_metrics(judged(50, split="train"), {}, PLAN, resamples=100, by_title=False)


def test_the_printed_table_shows_every_score_whole() -> None:
    found = metrics()
    text = render_metrics(found)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    assert "\x1b" not in text
    assert "…" not in text
    assert [line for line in lines if line.startswith(("validation, 300 rows", "test, 300 rows"))]
    for split in ("validation", "test"):
        for side in (found[split], *found[split]["floors"].values()):
            for scored in (side["overall"], *side["tasks"].values()):
                low, high = scored["ci95"]
                assert f"{scored['macro_f1']:.3f} [{low:.3f}, {high:.3f}]" in text
        for level in ("minimum", "stretch"):
            for entry in found[split]["verdict"][level]:
                assert any(entry["metric"] in line and entry["verdict"] in line for line in lines)
    assert "\x1b[" in render_metrics(found, colour=True)


def test_a_narrow_terminal_and_long_names_lose_no_number() -> None:
    labels = {"a_task_with_quite_a_long_name_indeed": ["a class with a rather long name, longer than any column", "b"]}
    found = metrics(labels, by_title=True, test=False)
    text = render_metrics(found, width=40)
    for of_class in next(iter(found["validation"]["tasks"].values()))["per_class"].values():
        assert f"{of_class['f1']:.3f} [{of_class['ci95'][0]:.3f}, {of_class['ci95'][1]:.3f}]" in text
    assert "intervals over 5 titles, left out one by one" in text
    assert "only 5 titles" in text
    assert "minimum" not in text
