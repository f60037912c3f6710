"""Whether rows look like those that a run was trained on: shares of the labels, lengths, and words that the tokenizer does not know.

A distribution's distance is its total variation from training's: the share of rows that would have to be others for both to agree.
A warning needs a distance that matters and one that chance does not explain (chi-squared test).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polarity.arrays import Codes, Floats
from polarity.environment import TokenStatistics
from polarity.evaluate.predictions import Labels, task_codes
from polarity.evaluate.results import Drift, LengthShift, Shift, UnknownShift

EDGES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Upper ends of the bins of token counts; the last bin is open."""
DISTANCE, CHANCE = 0.1, 0.001
UNKNOWN_MORE, UNKNOWN_TIMES = 0.01, 2.0
MIN_ROWS = 50


def describe_tokens(input_ids: pa.ChunkedArray, unknown_id: int | None) -> TokenStatistics:
    """What a run keeps of its training rows' tokens: rows, tokens, unknown ones, and a histogram of the rows' lengths.

    `input_ids` are lists of token ids; `unknown_id` is None for tokenizers that know every byte.
    """
    lengths = pc.list_value_length(input_ids).to_numpy().astype(np.int64)
    flat = pc.list_flatten(input_ids)
    unknown = 0 if unknown_id is None else int(pc.sum(pc.equal(flat, unknown_id)).as_py() or 0)
    counts = np.bincount(np.searchsorted(EDGES, lengths), minlength=len(EDGES) + 1)
    return {
        "rows": len(lengths),
        "tokens": int(lengths.sum()),
        "unknown_tokens": unknown,
        "median_length": float(np.median(lengths)) if len(lengths) else 0.0,
        "length_edges": list(EDGES),
        "length_counts": counts.tolist(),
    }


def drift(
    predictions: pa.Table,
    tokens: TokenStatistics | None,
    labels: Labels,
    *,
    train_labels: Mapping[str, Sequence[int]],
    train_tokens: TokenStatistics | None,
) -> Drift:
    """{"labels": {T: ...}, "lengths", "unknown", "warnings": [...]}: what could be compared, and in words what differs.

    `tokens` and `train_tokens` are `describe_tokens` of these rows and of training's, `train_labels` its counts by class.
    """
    found: Drift = {"labels": {}, "warnings": []}
    for task, counts in train_labels.items():
        codes = task_codes(predictions, task, labels[task])[0]
        compared = _compare(np.asarray(counts), np.bincount(codes[codes >= 0], minlength=len(labels[task])))
        found["labels"][task] = compared
        if compared["drifted"]:
            found["warnings"].append(_label_warning(task, labels[task], compared))
    if tokens is not None and train_tokens is not None and train_tokens["length_edges"] == tokens["length_edges"]:
        shift = _compare(np.asarray(train_tokens["length_counts"]), np.asarray(tokens["length_counts"]))
        lengths: LengthShift = {**shift, "train_median": train_tokens["median_length"], "median": tokens["median_length"]}
        found["lengths"] = lengths
        if lengths["drifted"]:
            medians = f"median {tokens['median_length']:g} tokens, {train_tokens['median_length']:g} in training"
            found["warnings"].append(f"the rows are of another length than the training rows ({medians})")
        found["unknown"] = _unknown(train_tokens, tokens)
        if found["unknown"]["drifted"]:
            rates = f"{found['unknown']['rate']:.1%} of the tokens, {found['unknown']['train_rate']:.1%} in training"
            found["warnings"].append(f"the tokenizer does not know much of this text ({rates}): another language, script or encoding?")
    return found


def _compare(train: Codes, here: Codes) -> Shift:
    """Both distributions, their distance and the chance of one as large from the same source; `drifted` where both are remarkable."""
    from scipy.stats import chi2_contingency

    shares_train, shares_here = _shares(train), _shares(here)
    distance = float(np.abs(shares_train - shares_here).sum() / 2)
    seen = (train + here) > 0
    compared = bool(train.sum() and here.sum())
    chance = float(chi2_contingency(np.stack([train, here])[:, seen]).pvalue) if compared and seen.sum() > 1 else 1.0
    return {
        "train_shares": shares_train.tolist(),
        "shares": shares_here.tolist(),
        "distance": distance if compared else 0.0,
        "p": chance,
        "drifted": compared and int(here.sum()) >= MIN_ROWS and distance > DISTANCE and chance < CHANCE,
    }


def _shares(counts: Codes) -> Floats:
    return counts / counts.sum() if counts.sum() else np.zeros(len(counts))


def _unknown(train: TokenStatistics, here: TokenStatistics) -> UnknownShift:
    before, rate = (side["unknown_tokens"] / max(1, side["tokens"]) for side in (train, here))
    return {"train_rate": before, "rate": rate, "drifted": rate > before + UNKNOWN_MORE and rate > UNKNOWN_TIMES * before}


def _label_warning(task: str, classes: Sequence[str], compared: Shift) -> str:
    moves = np.asarray(compared["shares"]) - np.asarray(compared["train_shares"])
    largest = int(np.abs(moves).argmax())
    before, here = compared["train_shares"][largest], compared["shares"][largest]
    return f"the labels of {task} are distributed otherwise than in training ({classes[largest]}: {here:.1%} here, {before:.1%} there)"
