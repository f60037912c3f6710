"""`polarity ensemble`: several runs, and the linear floor if asked, as one run that averages their log-probabilities.

Members count equally, unless validation rows that chose nothing show that fitted weights are better. Shapes: M members, N rows, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polarity import artifacts
from polarity.arrays import Codes
from polarity.artifacts import RunFolder
from polarity.data.split import load_splits
from polarity.environment import MadeFrom
from polarity.errors import RunError, Say, nearest
from polarity.evaluate import Metrics, build_predictions, evaluate_split, paired_difference
from polarity.evaluate.calibration import probabilities_of
from polarity.evaluate.predictions import Labels, title_codes
from polarity.evaluate.results import Difference
from polarity.predict.scorers import LINEAR, Probabilities, combine, fit_weights
from polarity.run import EnsembleRecord, Run, WeightChoice
from polarity.workflows.members import aligned_predictions, copy_folder, new_run, open_members, write_run, writing

WEIGHTS = ("auto", "equal")
FOLDS = 5
MEMBERS = "members"
_COPIED = (artifacts.CONFIG, artifacts.ENVIRONMENT, artifacts.METRICS, artifacts.PREDICTIONS)

Predicted = dict[str, pa.Table]
"""{split: predictions in the splits' row order} of one member."""


def ensemble(runs: Sequence[str], out: str, *, linear: bool = False, weights: str = "auto", say: Say = print) -> Metrics:
    """Write an ensemble's folder with copies of its members, and return the content of its metrics.json.

    `weights` auto fits them on validation rows where that helps in cross-fitting, and is equal otherwise. Test rows decide nothing.
    Raises RunError: too few or unfit members, members of other splits, a folder that holds a run; DataError: the data cannot be read.
    """
    if weights not in WEIGHTS:
        raise RunError(f"--weights {weights}: {nearest(weights, WEIGHTS)}")
    with new_run(out) as folder:
        metrics = _make(folder, runs, linear, weights, say)
    say(f"run folder: {out}")
    return metrics


def _make(folder: RunFolder, runs: Sequence[str], linear: bool, weights: str, say: Say) -> Metrics:
    members = open_members(runs, least=1 if linear else 2)
    named, config = _named(members), members[0].config
    labels, resamples = config.labels, config.train.resamples
    splits = load_splits(config.data, say)
    predicted = {name: aligned_predictions(member, splits) for name, member in named.items()}
    made_from: list[MadeFrom] = [{"run": name, "seeds": member.environment.get("seeds", {})} for name, member in named.items()]
    if linear:
        from polarity.baselines.floors import fit_linear, save_linear

        floor = fit_linear(splits.train, labels, say=say)
        predicted[LINEAR] = {
            split: build_predictions(split, table, floor.probabilities(table), labels) for split, table in splits.held_out.items()
        }
        made_from.append({"run": LINEAR})
        with writing(folder, LINEAR) as place:
            place.mkdir()
            save_linear(place, floor, labels)
    chances = {
        split: [{task: probabilities_of(of[split], task, list(classes)) for task, classes in labels.items()} for of in predicted.values()]
        for split in splits.held_out
    }
    if weights == "equal":
        shares, choice = [1.0 / len(predicted)] * len(predicted), WeightChoice(chosen="equal, as asked")
    else:
        by_title = splits.by_title["validation"]
        shares, choice = choose_weights(chances["validation"], splits.validation, labels, by_title=by_title, resamples=resamples)
    combined = {
        split: build_predictions(split, table, pool(chances[split], shares, labels), labels) for split, table in splits.held_out.items()
    }
    chose = [what for member in members for what in member.decided.get("validation", [])]
    chose += [] if weights == "equal" else ["the members' weights"]
    record = _record(predicted, shares, choice, combined, labels, splits.by_title, resamples, chose, say)
    for name, member in named.items():
        for file in _COPIED:
            if member.has(file):
                folder.write_bytes(f"{MEMBERS}/{name}/{file}", member.folder.read_bytes(file))
        copy_folder(member.folder, artifacts.MODEL, folder, f"{MEMBERS}/{name}")
    folder.write_json(artifacts.ENSEMBLE, {"members": [f"{MEMBERS}/{name}" for name in named], LINEAR: linear, **record})
    return write_run(folder, members, made_from, splits, pa.concat_tables(combined.values()), say)


def _named(members: Sequence[Run]) -> dict[str, Run]:
    """Each member under its run's name, with a number behind where two runs have the same, and where it would be `linear`."""
    found: dict[str, Run] = {}
    for member in members:
        name, number = member.name, 2
        while name in found or name == LINEAR:
            name, number = f"{member.name}-{number}", number + 1
        found[name] = member
    return found


def _record(
    predicted: dict[str, Predicted], shares: list[float], choice: WeightChoice, combined: Predicted, labels: dict[str, list[str]],
    titles: dict[str, bool], resamples: int, chose: Sequence[str], say: Say,
) -> EnsembleRecord:  # fmt: skip
    """What ensemble.json says beside its members, all of it said, too."""
    scores = {name: _overall(of_member["validation"], labels) for name, of_member in predicted.items()}
    best = max(scores, key=lambda name: scores[name])
    gains = {
        name: paired_difference(
            table, predicted[best][name], labels, resamples=resamples, by_title=titles[name], decided=chose if name == "validation" else ()
        )["overall"]
        for name, table in combined.items()
    }
    for (name, score), weight in zip(scores.items(), shares, strict=True):
        say(f"{name}: {100 * score:.1f} % overall macro-F1 on validation, weight {weight:.3f}")
    if "fitted_minus_equal_cross_fitted" in choice:
        crossed = choice["fitted_minus_equal_cross_fitted"]
        say(f"weights: {choice['chosen']} (fitted against equal, cross-fitted: {_points(crossed)})")
    for name, gain in gains.items():
        say(f"ensemble: {100 * _overall(combined[name], labels):.1f} % on {name}, against {best}, the best on validation: {_points(gain)}")
    record: EnsembleRecord = {
        "weights": shares,
        "choice": choice,
        "validation": scores,
        "against_best_member": {"member": best, **gains["validation"]},
    }
    if "test" in gains:
        record["against_best_member_on_test"] = {"member": best, **gains["test"]}
    return record


def choose_weights(
    members: Sequence[Probabilities], comments: pa.Table, labels: Labels, *, by_title: bool, resamples: int
) -> tuple[list[float], WeightChoice]:
    """(a weight a member, how they were chosen): fitted ones where, cross-fitted on the validation rows `comments`, their gain in macro-F1
    over equal ones excludes zero, else equal ones.

    `by_title` keeps a title's rows in one fold and resamples titles. Raises RunError for fewer rows than folds.
    """
    equal = [1.0 / len(members)] * len(members)
    codes = {task: comments[task].fill_null(-1).to_numpy().astype(np.int64) for task in labels}
    crossed: dict[str, NDArray[np.float32]] = {
        task: np.zeros((comments.num_rows, len(names)), np.float32) for task, names in labels.items()
    }
    for fitted, held_out in _folds(comments, by_title):
        weights = fit_weights([_rows(member, fitted) for member in members], {task: c[fitted] for task, c in codes.items()})
        for task, probabilities in pool([_rows(member, held_out) for member in members], weights, labels).items():
            crossed[task][held_out] = probabilities
    by_fitted = build_predictions("validation", comments, crossed, labels)
    by_equal = build_predictions("validation", comments, pool(members, equal, labels), labels)
    difference = paired_difference(by_fitted, by_equal, labels, resamples=resamples, by_title=by_title)["overall"]
    choice: WeightChoice = {"chosen": "equal", "folds": FOLDS, "fitted_minus_equal_cross_fitted": difference}
    if difference["verdict"] != "gain":
        return equal, choice
    return fit_weights(members, codes), {**choice, "chosen": "fitted"}


def pool(members: Sequence[Probabilities], weights: Sequence[float], labels: Labels) -> dict[str, NDArray[np.float32]]:
    """The ensemble's probabilities of each task (N, K) from its members'."""
    return {task: combine([member[task] for member in members], weights).probabilities for task in labels}


def _folds(comments: pa.Table, by_title: bool) -> list[tuple[Codes, Codes]]:
    from sklearn.model_selection import GroupKFold, KFold

    rows, groups = comments.num_rows, title_codes(comments)[0] if by_title else None
    if rows < FOLDS or (groups is not None and len(np.unique(groups)) < FOLDS):
        what = f"{rows} validation rows" if groups is None else f"validation rows of {len(np.unique(groups))} titles"
        raise RunError(f"{what} are too few to choose weights on ({FOLDS} folds): use --weights equal")
    splitter: Any = KFold(FOLDS, shuffle=True, random_state=0) if groups is None else GroupKFold(FOLDS)
    return list(splitter.split(np.zeros(rows), groups=groups))


def _rows(member: Probabilities, rows: Codes) -> dict[str, NDArray[np.floating]]:
    return {task: probabilities[rows] for task, probabilities in member.items()}


def _overall(predictions: pa.Table, labels: dict[str, list[str]]) -> float:
    judged = evaluate_split(predictions, labels, resamples=1, by_title=False, with_slices=False)
    return float(np.float64(judged["overall"]["macro_f1"]))


def _points(difference: Difference) -> str:
    low, high = (100 * bound for bound in difference["ci95"])
    return f"{100 * difference['difference']:+.1f} points [{low:+.1f}, {high:+.1f}], {difference['verdict']}"
