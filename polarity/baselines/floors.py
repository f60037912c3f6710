"""All floors on the same rows as the model, as predictions tables."""

from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from polarity.baselines.linear import fit_linear
from polarity.baselines.majority import majority, title_only
from polarity.evaluate.predictions import Labels, build_predictions


def floors(
    train: pa.Table, held_out: Mapping[str, pa.Table], labels: Labels, *, say: Callable[[str], None]
) -> dict[str, dict[str, pa.Table]]:
    """{split: {"majority", "title", "linear": predictions}} for comments tables, each fitted on `train` alone.

    The title floor is left out where no training row has a title. Raises DataError where a task has no labelled training row.
    """
    fitted = fit_linear(train, labels, say=say)
    has_titles = bool(pc.any(pc.not_equal(train["title"], "")).as_py())
    found: dict[str, dict[str, pa.Table]] = {}
    for split, comments in held_out.items():
        probabilities = {"majority": majority(train, comments, labels)}
        if has_titles:
            probabilities["title"] = title_only(train, comments, labels)
        probabilities["linear"] = fitted.probabilities(comments)
        found[split] = {name: build_predictions(split, comments, probs, labels) for name, probs in probabilities.items()}
    return found
