"""Random predictions with a known shape, for the tests of this folder."""

import numpy as np
import pyarrow as pa

from polarity.evaluate import build_predictions

PLAN = {"sentiment": ["negative", "neutral", "positive"], "polarization": ["non_polarized", "objective", "partisan"]}
SHARES = np.array([0.6, 0.28, 0.12])


def judged(
    rows: int,
    seed: int = 0,
    *,
    skill: float = 1.0,
    missing: float = 0.0,
    labels: dict[str, list[str]] | None = None,
    titles: int = 5,
    split: str = "validation",
    noise_seed: int = 1,
) -> pa.Table:
    """A predictions table: `seed` fixes labels and titles, `noise_seed` the predictions, which grow better with `skill`."""
    labels = PLAN if labels is None else labels
    rng, noise = np.random.default_rng(seed), np.random.default_rng([noise_seed, seed])
    columns = {
        "row_id": pa.array([f"r{i}" for i in range(rows)], pa.large_string()),
        "title": pa.array([f"title {i}" for i in rng.integers(0, titles, rows)], pa.large_string()),
        "comment": pa.array(["c"] * rows, pa.large_string()),
    }
    probabilities = {}
    for task, classes in labels.items():
        shares = SHARES[: len(classes)] / SHARES[: len(classes)].sum()
        true = rng.choice(len(classes), rows, p=shares)
        hidden = rng.random(rows) < missing
        columns[task] = pa.array(true.astype(np.int8), pa.int8(), mask=hidden)
        logits = noise.normal(size=(rows, len(classes))) + skill * np.eye(len(classes))[true]
        exp = np.exp(logits)
        probabilities[task] = exp / exp.sum(axis=1, keepdims=True)
    return build_predictions(split, pa.table(columns), probabilities, labels)
