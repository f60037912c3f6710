"""The floors that every result stands beside: majority, title only, linear. Fitted on training rows only."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from polarity.baselines.linear import fit_linear, linear, load_linear, save_linear
from polarity.baselines.majority import majority, title_only
from polarity.errors import Say
from polarity.evaluate.predictions import Labels, build_predictions

__all__ = ["fit_linear", "floors", "linear", "load_linear", "majority", "save_linear", "title_only"]


def floors(train: pa.Table, held_out: Mapping[str, pa.Table], labels: Labels, *, say: Say) -> dict[str, dict[str, pa.Table]]:
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
