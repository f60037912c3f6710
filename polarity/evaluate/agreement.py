"""How far annotators agree, and how much of a model's error is the labels' own.

Krippendorff's alpha (2011, "Computing Krippendorff's alpha-reliability") is 1 for full agreement and 0 for what chance gives; a class's
own alpha takes all other classes as one. Rows with a single vote say nothing of agreement and are left out, as alpha does.

Shapes: N rows, K classes.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np

from polarity.arrays import Codes


def nominal_alpha(votes_NK: Codes) -> float | None:
    """Krippendorff's alpha of nominal votes; None where no row has two votes, or all votes are for one class."""
    from krippendorff import alpha

    shared_NK = votes_NK[votes_NK.sum(axis=1) >= 2]
    if not len(shared_NK) or (shared_NK.sum(axis=0) > 0).sum() < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(alpha(value_counts=shared_NK, level_of_measurement="nominal"))


class Agreement(TypedDict):
    """A task of agreement.json; the alphas are null where there is nothing to compare; `errors` are by split, see `error_of_labels`."""

    rows: int
    votes: int
    shared: int
    disputed: int
    ties: int
    alpha: float | None
    alpha_by_class: dict[str, float | None]
    one_against_rest: float | None
    soft: NotRequired[bool]
    errors: NotRequired[dict[str, dict[str, int]]]


def agreement(votes_NK: Codes, classes: Sequence[str]) -> Agreement:
    """A task's agreement: rows, votes, rows with two votes or more, those that are not unanimous, ties, and alpha, overall and by class.

    `one_against_rest` is how often one annotator's vote is the majority of the others', over all votes whose row has others with a
    majority: as sure as an annotator is, who is the measure of a classifier. None where there is none such.
    """
    total_N, most_N = votes_NK.sum(axis=1), votes_NK.max(axis=1, initial=0)
    shared_N = total_N >= 2
    ties_N = shared_N & ((votes_NK == most_N[:, None]).sum(axis=1) > 1)
    by_class = {}
    for index, name in enumerate(classes):
        own_N = votes_NK[:, index]
        by_class[name] = nominal_alpha(np.stack([own_N, total_N - own_N], axis=1))
    return {
        "rows": int((total_N > 0).sum()),
        "votes": int(total_N.sum()),
        "shared": int(shared_N.sum()),
        "disputed": int((shared_N & (most_N < total_N)).sum()),
        "ties": int(ties_N.sum()),
        "alpha": nominal_alpha(votes_NK),
        "alpha_by_class": by_class,
        "one_against_rest": _one_against_rest(votes_NK),
    }


def _one_against_rest(votes_NK: Codes) -> float | None:
    agreed = asked = 0
    for index in range(votes_NK.shape[1]):
        cast_N = votes_NK[:, index]
        rest_NK = votes_NK.copy()
        rest_NK[:, index] = np.maximum(cast_N - 1, 0)
        most_N = rest_NK.max(axis=1, initial=0)
        clear_N = (most_N > 0) & ((rest_NK == most_N[:, None]).sum(axis=1) == 1)
        asked += int(cast_N[clear_N].sum())
        agreed += int(cast_N[clear_N & (rest_NK.argmax(axis=1) == index)].sum())
    return agreed / asked if asked else None


def error_of_labels(votes_NK: Codes, labels: Codes, predicted: Codes) -> dict[str, int]:
    """How the model's errors lie to the votes, over the rows (N,) with a label and two votes or more.

    `rows`, `errors`, `disputed` rows (not unanimous), `errors_disputed` on these, and `errors_voted`: errors in which an annotator said
    what the model says. The last are the labels' own as far as anybody can tell.
    """
    known_N = (labels >= 0) & (votes_NK.sum(axis=1) >= 2)
    disputed_N = known_N & (votes_NK.max(axis=1, initial=0) < votes_NK.sum(axis=1))
    wrong_N = known_N & (predicted != labels)
    voted_N = wrong_N & (votes_NK[np.arange(len(labels)), np.maximum(predicted, 0)] > 0)
    return {
        "rows": int(known_N.sum()),
        "errors": int(wrong_N.sum()),
        "disputed": int(disputed_N.sum()),
        "errors_disputed": int((wrong_N & disputed_N).sum()),
        "errors_voted": int(voted_N.sum()),
    }


def in_words(found: Mapping[str, Agreement]) -> list[str]:
    """agreement.json's tasks in lines to print."""
    lines = []
    for task, entry in found.items():
        alpha = "not to be had" if entry["alpha"] is None else f"{entry['alpha']:.3f}"
        lines.append(
            f"{task}: the annotators' alpha is {alpha} on {entry['shared']:,} rows with two votes or more; "
            f"{entry['disputed']:,} are disputed, {entry['ties']:,} are ties and have no label"
        )
        for split, error in entry.get("errors", {}).items():
            if error["errors"]:
                lines.append(
                    f"{task}, {split}: of {error['errors']:,} errors {error['errors_disputed']:,} are on disputed rows, and in "
                    f"{error['errors_voted']:,} an annotator said what the model says"
                )
    return lines
