"""The model as an export carries it: it also takes texts. The source of this module goes into the folder of `--to hf`."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from polarity.data.tokenize import plain_backend
from polarity.evaluate.calibration import apply
from polarity.model.inference import score
from polarity.model.multitask import MultitaskModel
from polarity.predict.portable_texts import encode_texts, longest_first, pad_rows


class PolarityClassifier(MultitaskModel):
    """The trained model; `config.text_settings` says how its inputs are made, `config.calibration` what is done to its scores."""

    def classify(
        self, comments: Sequence[str], titles: Sequence[str] | None = None, *, tokenizer: Any, raw: bool = False, batch_size: int = 32
    ) -> dict[str, dict[str, Any]]:
        """{task: {"labels": N class names, "probabilities": (N, K) array in the order of `config.task_labels[task]`}}.

        `titles` are the posts that are answered, one a comment, "" where there is none. `raw` leaves the calibration out.
        """
        config: Any = self.config
        settings = config.text_settings
        found: dict[str, list[Any]] = {task: [] for task in self.heads}
        lengths: Any = SimpleNamespace(**settings["lengths"])
        rows = encode_texts(plain_backend(tokenizer), comments, titles, lengths)
        order = longest_first(rows)
        for start in range(0, len(rows), batch_size):
            batch = pad_rows(
                [rows[position] for position in order[start : start + batch_size]],
                settings["pad_token_id"],
                types=settings["token_type_ids"],
            )
            scores = score(self, {name: torch.from_numpy(array).to(self.device) for name, array in batch.items()})
            for task, part in scores.items():
                found[task].append((part.probabilities.float().cpu().numpy(), part.predicted.cpu().numpy()))
        return {task: self._named(task, parts, np.argsort(order), raw) for task, parts in found.items()}

    def _named(self, task: str, parts: list[Any], places: Any, raw: bool) -> dict[str, Any]:
        config: Any = self.config
        names = config.task_labels[task]
        probabilities = np.concatenate([np.zeros((0, len(names)), np.float32), *(part[0] for part in parts)])[places]
        predicted = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in parts)])[places]
        fitted = None if raw else config.calibration.get(task)
        if fitted is not None:
            probabilities, biased = apply(probabilities, fitted["temperature"], fitted["biases"])
            # A temperature moves no argmax, and must not undo a vote.
            predicted = predicted if fitted["biases"] is None else biased
        return {"labels": [names[index] for index in predicted], "probabilities": probabilities.astype(np.float32)}
