"""Drift: by hand on small counts, silent on samples of the same source, and loud where labels, lengths or words are others."""

import numpy as np
import pyarrow as pa
import pytest

from polarity.evaluate.drift import describe_tokens, drift
from tests.evaluate.judged import PLAN, judged

COUNTS = {"sentiment": [600, 280, 120], "polarization": [600, 280, 120]}


def tokens(lengths: np.ndarray, unknown: float, seed: int = 0) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    ids = np.where(rng.random(int(lengths.sum())) < unknown, 1, 7).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return describe_tokens(pa.chunked_array([pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(ids))]), 1)


def test_describe_tokens_by_hand() -> None:
    found = describe_tokens(pa.chunked_array([pa.array([[1, 5, 6], [7] * 9, [1] * 600], pa.large_list(pa.int32()))]), 1)
    assert found["rows"] == 3 and found["tokens"] == 612 and found["unknown_tokens"] == 601 and found["median_length"] == 9.0
    assert found["length_counts"][0] == 1 and found["length_counts"][1] == 1 and found["length_counts"][-1] == 1
    assert sum(found["length_counts"]) == 3
    assert describe_tokens(pa.chunked_array([pa.array([[1]], pa.large_list(pa.int32()))]), None)["unknown_tokens"] == 0


def test_rows_of_the_same_source_are_no_drift() -> None:
    rng = np.random.default_rng(3)
    train, here = (tokens(rng.integers(5, 90, rows), 0.02, rows) for rows in (3000, 400))
    for seed in range(10):
        found = drift(judged(400, seed), here, PLAN, train_labels=COUNTS, train_tokens=train)
        assert found["warnings"] == []


def test_other_labels_lengths_and_words_are_named() -> None:
    rng = np.random.default_rng(4)
    train, here = tokens(rng.integers(5, 90, 3000), 0.02), tokens(rng.integers(60, 200, 400), 0.2)
    found = drift(judged(400), here, PLAN, train_labels={"sentiment": [100, 100, 800]}, train_tokens=train)
    assert found["labels"]["sentiment"]["distance"] == pytest.approx(0.68, abs=0.05) and "polarization" not in found["labels"]
    words = " / ".join(found["warnings"])
    assert "labels of sentiment" in words and "positive" in words and "another length" in words and "does not know" in words
    assert len(found["warnings"]) == 3


def test_few_rows_and_unknown_training_rows_say_nothing() -> None:
    here = tokens(np.full(30, 300), 0.0)
    found = drift(judged(30), here, PLAN, train_labels={"sentiment": [0, 0, 900]}, train_tokens=None)
    assert found["warnings"] == [] and "lengths" not in found and "unknown" not in found
