"""Run an exported ONNX model with onnxruntime, tokenizers and numpy alone: the source of this goes into the folder of `--to onnx`."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from polarity.evaluate.calibration import apply
from polarity.predict.portable_texts import encode_texts, longest_first, pad_rows


class OnnxClassifier:
    """The exported folder as a classifier; `file` is model.onnx, or model.int8.onnx where the export made one."""

    def __init__(self, folder: Path | str, file: str = "model.onnx", threads: int = 0) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self.about: dict[str, Any] = json.loads((Path(folder) / "export.json").read_text(encoding="utf-8"))
        self.labels: dict[str, list[str]] = self.about["labels"]
        self._backend: Any = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self._backend.no_truncation()
        self._backend.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session: Any = onnxruntime.InferenceSession(str(Path(folder) / file), options, providers=["CPUExecutionProvider"])

    def logits(self, comments: Sequence[str], titles: Sequence[str] | None = None, *, batch_size: int = 32) -> dict[str, Any]:
        """{task: (N, K) float32}."""
        inputs = self.about["inputs"]
        lengths: Any = SimpleNamespace(**inputs["lengths"])
        rows = encode_texts(self._backend, comments, titles, lengths)
        order = longest_first(rows)
        found: dict[str, list[Any]] = {task: [np.zeros((0, len(names)), np.float32)] for task, names in self.labels.items()}
        for start in range(0, len(rows), batch_size):
            batch = pad_rows(
                [rows[position] for position in order[start : start + batch_size]], inputs["pad_token_id"], types=inputs["token_type_ids"]
            )
            outputs = self._session.run([self.about["outputs"][task] for task in self.labels], batch)
            for task, part in zip(self.labels, outputs, strict=True):
                found[task].append(part)
        return {task: np.concatenate(parts)[np.argsort(order)] for task, parts in found.items()}

    def classify(
        self, comments: Sequence[str], titles: Sequence[str] | None = None, *, raw: bool = False, batch_size: int = 32
    ) -> dict[str, dict[str, Any]]:
        """{task: {"labels": N class names, "probabilities": (N, K) in the order of `labels[task]`}}; `raw` leaves the calibration out.

        `titles` are the posts that are answered, one a comment, "" where there is none.
        """
        found = {}
        for task, logits in self.logits(comments, titles, batch_size=batch_size).items():
            exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities = exponents / exponents.sum(axis=1, keepdims=True)
            predicted = probabilities.argmax(axis=1)
            fitted = None if raw else self.about["calibration"].get(task)
            if fitted is not None:
                probabilities, predicted = apply(probabilities, fitted["temperature"], fitted["biases"])
            names = self.labels[task]
            found[task] = {"labels": [names[index] for index in predicted], "probabilities": probabilities.astype(np.float32)}
        return found
