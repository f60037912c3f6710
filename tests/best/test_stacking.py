"""What combines the members: rules that find a planted truth, scores that no row's own label touched, files that are read back."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from polarity.artifacts import STACK, RunFolder
from polarity.best.stacking import RULES, Crossed, Judge, choose_rule, cross_fit, drop_one, fit_stack, fit_task, member_alone, overall
from polarity.errors import RunError
from polarity.predict.stacked import PoolRule, Stack, StackMember, read_stack, stack_features, stacked

LABELS = {"sentiment": ["negative", "neutral", "positive"], "stance": ["for", "against"]}


def rows(count: int, seed: int = 0) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Comments with labels of two tasks, a tenth of them missing."""
    rng = np.random.default_rng(seed)
    codes = {
        task: rng.choice(len(classes), count, p=[0.6, 0.4] if len(classes) == 2 else [0.6, 0.3, 0.1]) for task, classes in LABELS.items()
    }
    hidden = {task: np.where(rng.random(count) < 0.1, -1, code) for task, code in codes.items()}
    columns = {task: pa.array(np.where(code < 0, 0, code), pa.int8(), mask=code < 0) for task, code in hidden.items()}
    ids, titles = [str(i) for i in range(count)], [f"post {i % 7}" for i in range(count)]
    return pa.table({"row_id": ids, "title": titles, "comment": ids, **columns}), codes


def member(codes: dict[str, np.ndarray], skill: float, seed: int) -> dict[str, np.ndarray]:
    """Probabilities that favour the truth by `skill` on the log scale, amid noise."""
    rng, found = np.random.default_rng(seed), {}
    for task, code in codes.items():
        logs = rng.normal(0, 1, (len(code), len(LABELS[task]))) + skill * np.eye(len(LABELS[task]))[code]
        found[task] = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    return found


def named(members: list[dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    return {f"member {number}": each for number, each in enumerate(members)}


def judge(table: pa.Table, folds: int = 5) -> Judge:
    return Judge.of(table, LABELS, np.arange(table.num_rows) % folds, by_title=False, resamples=200)


def test_a_good_member_is_preferred_to_noise_by_every_rule_and_dropping_it_costs() -> None:
    table, codes = rows(900)
    members = {"good": member(codes, 2.0, 1), "noise": member(codes, 0.0, 2)}
    asked = judge(table)
    for rule in RULES:
        crossed = cross_fit(rule, members, asked, biased=dict.fromkeys(LABELS, False))
        assert overall(crossed, asked) > overall(member_alone(members["noise"], LABELS), asked) + 0.2
    choice = choose_rule(members, asked)
    worth = drop_one(choice, members, asked)
    assert worth["good"].verdict == "gain" and worth["good"].difference > 0.2
    assert worth["noise"].ci95[0] < 0.02


def test_two_members_that_err_apart_are_better_together_than_each_alone() -> None:
    table, codes = rows(1500)
    members = {"a": member(codes, 1.2, 1), "b": member(codes, 1.2, 2)}
    asked = judge(table)
    choice = choose_rule(members, asked)
    for one in members.values():
        assert asked.difference(choice.crossed, member_alone(one, LABELS)).verdict == "gain"


@pytest.mark.parametrize("skills", [(1.2, 0.9, 0.3), (1.2, 1.2, 1.2), (2.0, 1.5, 0.8)])
def test_on_few_rows_the_stack_is_not_below_the_best_member(skills: tuple[float, ...]) -> None:
    """Fitted on 100 rows and scored on 2,000 others, ten draws; the best member is chosen on the scored rows."""
    differences = []
    for draw in range(10):
        table, codes = rows(2100, seed=draw)
        members = {str(number): member(codes, skill, 10 * draw + number) for number, skill in enumerate(skills)}
        few = {name: {task: chances[:100] for task, chances in each.items()} for name, each in members.items()}
        asked, wanted = judge(table.slice(0, 100)), Judge.of(table.slice(100), LABELS, np.zeros(2000, int), by_title=False, resamples=10)
        rest = [{task: chances[100:] for task, chances in each.items()} for each in members.values()]
        scores = {task: stacked(rest, task, how) for task, how in fit_stack(choose_rule(few, asked), few, asked).items()}
        stack = Crossed({task: s.probabilities for task, s in scores.items()}, {task: s.predicted for task, s in scores.items()})
        differences.append(overall(stack, wanted) - max(overall(member_alone(each, LABELS), wanted) for each in rest))
    assert np.mean(differences) > -0.01


def test_the_mean_leaves_the_titles_prior_out_unless_it_is_alone() -> None:
    _, codes = rows(100)
    members = {"title": member(codes, 0.5, 1), "linear": member(codes, 1.0, 2)}
    how = fit_task("mean", members, "sentiment", codes["sentiment"], with_biases=False).combination
    assert isinstance(how, PoolRule) and how.weights == [0.0, 1.0]
    alone = fit_task("mean", {"title": members["title"]}, "sentiment", codes["sentiment"], with_biases=False).combination
    assert isinstance(alone, PoolRule) and alone.weights == [1.0]


def test_the_mean_counts_the_parts_of_a_fused_member_a_fourth() -> None:
    _, codes = rows(100)
    members = {name: member(codes, 1.0, 1) for name in ("title", "linear", "frozen-e5", "fused-e5", "e5")}
    how = fit_task("mean", members, "sentiment", codes["sentiment"], with_biases=False).combination
    assert isinstance(how, PoolRule) and how.weights == [0.0, 0.1, 0.1, 0.4, 0.4]
    unfused = {name: members[name] for name in ("linear", "frozen-e5", "e5")}
    how = fit_task("mean", unfused, "sentiment", codes["sentiment"], with_biases=False).combination
    assert isinstance(how, PoolRule) and how.weights == [1 / 3] * 3


def test_no_rows_own_label_reaches_its_score() -> None:
    table, codes = rows(300)
    members = {"a": member(codes, 1.0, 1), "b": member(codes, 0.5, 2)}
    asked = judge(table)
    flipped = table.set_column(
        table.schema.get_field_index("sentiment"), "sentiment", pa.array([(k or 0) and 0 for k in range(300)], pa.int8())
    )
    other = Judge.of(flipped, LABELS, asked.fold, by_title=False, resamples=200)
    mine = asked.fold == 2
    mixed = dict(other.codes)
    mixed["sentiment"] = np.where(mine, other.codes["sentiment"], asked.codes["sentiment"])
    changed = Judge(table, LABELS, asked.fold, False, 200, mixed)
    for rule in RULES:
        before, after = (cross_fit(rule, members, each, biased=dict.fromkeys(LABELS, True)) for each in (asked, changed))
        for task in LABELS:
            np.testing.assert_array_equal(before.predicted[task][mine], after.predicted[task][mine])
            np.testing.assert_array_equal(before.probabilities[task][mine], after.probabilities[task][mine])


@pytest.mark.parametrize("task", list(LABELS))
def test_the_logistic_rule_is_scikit_learns(task: str) -> None:
    _, codes = rows(400)
    members = [member(codes, 1.0, 1), member(codes, 0.7, 2)]
    how = fit_task("logistic", named(members), task, codes[task], with_biases=False)
    features = stack_features(members)
    standard = (features - features.mean(0)) / features.std(0)
    expected = LogisticRegression(C=0.1, max_iter=500).fit(standard, codes[task]).predict_proba(standard)
    np.testing.assert_allclose(stacked(members, task, how).probabilities, expected, atol=1e-5)


def test_a_class_without_rows_is_never_chosen() -> None:
    _, codes = rows(200)
    codes["sentiment"] = np.where(codes["sentiment"] == 2, 0, codes["sentiment"])
    members = [member(codes, 1.0, 1), member(codes, 1.0, 2)]
    for rule in RULES:
        how = fit_task(rule, named(members), "sentiment", codes["sentiment"], with_biases=True)
        assert how.biases is None
        assert stacked(members, "sentiment", how).probabilities.shape == (200, 3)
    logistic = fit_task("logistic", named(members), "sentiment", codes["sentiment"], with_biases=False)
    assert (stacked(members, "sentiment", logistic).predicted != 2).all()


def write(folder: Path, stack: Stack) -> RunFolder:
    place = RunFolder.at(folder)
    place.write_json(STACK, stack.model_dump(mode="json"))
    return place


def test_a_stack_is_read_back_as_it_was_and_damage_is_named(tmp_path: Path) -> None:
    table, codes = rows(300)
    members = {"a": member(codes, 1.0, 1), "b": member(codes, 0.5, 2)}
    asked = judge(table)
    tasks = fit_stack(choose_rule(members, asked), members, asked)
    named = [StackMember(name=name, kind="linear", folders=[f"members/{name}"]) for name in members]
    folder = write(tmp_path / "run", Stack(labels=LABELS, members=named, tasks=tasks))
    again = read_stack(folder)
    for task in LABELS:
        first, second = (stacked(list(members.values()), task, each) for each in (tasks[task], again.tasks[task]))
        np.testing.assert_array_equal(first.probabilities, second.probabilities)
    content = json.loads((tmp_path / "run" / STACK).read_text())
    for change, words in (
        ({"members": content["members"][:1]}, "do not fit 1 members"),
        ({"members": [content["members"][0] | {"folders": ["../../elsewhere"]}, content["members"][1]]}, "not inside the run"),
        ({"tasks": {"sentiment": content["tasks"]["sentiment"]}}, "not those of the labels"),
    ):
        (tmp_path / "run" / STACK).write_text(json.dumps(content | change))
        with pytest.raises(RunError, match=words):
            read_stack(folder)
