"""What exports carry as source: texts into padded batches, one task's model with its pipeline, and the ONNX runner.

The first part needs numpy and a Rust tokenizer alone, the second torch and transformers, the third onnxruntime; `standalone` takes what
an export needs of each. The rule of the lengths is `polarity.data.tokenize`'s own; here it is written row by row, without Arrow.

Shapes: N and B rows, L tokens, K classes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, TextClassificationPipeline
from transformers.modeling_outputs import SequenceClassifierOutput

from polarity.config import DataConfig
from polarity.data.tokenize import Frame, frames, kept_lengths, plain_backend
from polarity.evaluate.calibration import apply
from polarity.model.inference import score
from polarity.model.multitask import MultitaskModel, PolarityConfig

Row = tuple[list[int], list[int]]
"""Token ids and segment ids."""


def encode_texts(
    backend: Any, comments: Sequence[str], titles: Sequence[str] | None, data: DataConfig
) -> list[tuple[list[int], list[int]]]:
    """(token ids, segment ids) of each row. `titles` are the posts that are answered, "" or None where there is none.

    `backend` neither cuts nor pads; of `data`, `order`, `max_length`, `max_comment` and `max_title` are read.
    """
    posts = [""] * len(comments) if titles is None else list(titles)
    if len(posts) != len(comments):
        raise ValueError(f"{len(comments)} comments but {len(posts)} titles: give one title a comment")
    single, pair = frames(backend)
    bodies = [encoding.ids for encoding in backend.encode_batch_fast(list(comments), add_special_tokens=False)]
    heads = [encoding.ids for encoding in backend.encode_batch_fast(posts, add_special_tokens=False)]
    heads = [ids if post else [] for ids, post in zip(heads, posts, strict=True)]
    of_body, of_head = (np.array([len(ids) for ids in lists], dtype=np.int64) for lists in (bodies, heads))
    kept_comment, kept_title = kept_lengths(of_body, of_head, data, single.size, pair.size)
    rows = []
    for body, head, of_comment, of_title in zip(bodies, heads, kept_comment, kept_title, strict=True):
        comment, title = body[:of_comment], head[:of_title]
        if not title:
            rows.append(_framed(single, comment, []))
        else:
            rows.append(_framed(pair, title, comment) if data.order == "title_first" else _framed(pair, comment, title))
    return rows


def _framed(frame: Frame, first: list[int], second: list[int]) -> Row:
    parts = [frame.before, first, frame.middle, second, frame.after]
    ids = [token for part in parts for token in part]
    return ids, [kind for part, kind in zip(parts, frame.types, strict=True) for _ in part]


def longest_first(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Positions (N,) of the rows by falling length: batches of rows of one length waste no padding."""
    return np.argsort([-len(ids) for ids, _ in rows], kind="stable")


def pad_rows(rows: Sequence[Row], pad_id: int, *, types: bool) -> dict[str, NDArray[np.int64]]:
    """`input_ids`, `attention_mask` and, with `types`, `token_type_ids`, each (N, L), padded on the right to the longest row."""
    longest = max(len(ids) for ids, _ in rows)
    batch = {"input_ids": np.full((len(rows), longest), pad_id, dtype=np.int64)}
    names = ["attention_mask", "token_type_ids"] if types else ["attention_mask"]
    batch.update({name: np.zeros((len(rows), longest), dtype=np.int64) for name in names})
    for row, (ids, kinds) in enumerate(rows):
        batch["input_ids"][row, : len(ids)] = ids
        batch["attention_mask"][row, : len(ids)] = 1
        if types:
            batch["token_type_ids"][row, : len(ids)] = kinds
    return batch


class PolarityForSequenceClassification(PreTrainedModel):
    """One task of a trained model; `config.text_settings` says how its inputs are made, `config.calibration` what its scores go through."""

    config_class = PolarityConfig
    base_model_prefix = "polarity"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: PolarityConfig) -> None:
        super().__init__(config)
        self.polarity = MultitaskModel(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **_: Any) -> Any:
        """`logits` (B, K): logarithms of the probabilities, so that their softmax is these. For prediction: there is no gradient."""
        return SequenceClassifierOutput(logits=self.decide(input_ids, attention_mask, token_type_ids)[0])

    def decide(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logarithms of the calibrated probabilities (B, K) and the decided classes (B,), which votes and biases can move."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        scores = score(self.polarity, {name: value for name, value in inputs.items() if value is not None})
        [(probabilities_BK, predicted_B)] = scores.values()
        config: Any = self.config
        if config.calibration is None:
            return probabilities_BK.log(), predicted_B
        fitted, biased = apply(probabilities_BK.float().cpu().numpy(), config.calibration["temperature"], config.calibration["biases"])
        # A temperature moves no argmax, and must not undo a vote.
        chosen_B = predicted_B if config.calibration["biases"] is None else torch.from_numpy(biased)
        return torch.from_numpy(np.log(fitted)).float().to(input_ids.device), chosen_B.to(input_ids.device)


class PolarityPipeline(TextClassificationPipeline):
    """`pipeline("text-classification", folder, trust_remote_code=True)`: texts are put together and classes decided as the run does.

    An input is a comment, or {"text": the comment, "text_pair": the title of the post that it answers}. With `top_k` the decided class
    comes first, then the others by falling score.
    """

    def check_model_type(self, supported_models: Any) -> None:
        """Any model of this folder."""

    def preprocess(self, inputs: Any, **_: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """One row as tensors (1, L)."""
        comment, title = (inputs, "") if isinstance(inputs, str) else (inputs["text"], inputs.get("text_pair") or "")
        settings = self.model.config.text_settings
        if not hasattr(self, "_backend"):
            tokenizer: Any = self.tokenizer
            self._backend = plain_backend(tokenizer)  # made once: for 250,000 pieces it takes a second
        lengths: Any = SimpleNamespace(**settings["lengths"])
        rows = encode_texts(self._backend, [comment], [title], lengths)
        batch = pad_rows(rows, settings["pad_token_id"], types=settings["token_type_ids"])
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _forward(self, model_inputs: Any, **_: Any) -> Any:  # type: ignore[override]
        model: Any = self.model
        logits_BK, chosen_B = model.decide(**model_inputs)
        return {"logits": logits_BK, "chosen": chosen_B}

    def postprocess(  # type: ignore[override]
        self, model_outputs: Any, function_to_apply: Any = None, top_k: int | None = 1, _legacy: bool = True
    ) -> Any:
        """{"label", "score"} of the decided class, or with `top_k` a list of them; scores are probabilities whatever is to be applied."""
        scores, chosen = model_outputs["logits"][0].exp().tolist(), int(model_outputs["chosen"][0])
        order = sorted(range(len(scores)), key=lambda index: (index != chosen, -scores[index]))
        names: Any = self.model.config.id2label
        found = [{"label": names[index], "score": scores[index]} for index in order]
        return found[0] if _legacy and top_k == 1 else found[:top_k]


class Classified(TypedDict):
    """The classes of N texts, and their probabilities (N, K) in the order of `OnnxClassifier.labels[task]`."""

    labels: list[str]
    probabilities: NDArray[np.float32]


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

    def logits(
        self, comments: Sequence[str], titles: Sequence[str] | None = None, *, batch_size: int = 32
    ) -> dict[str, NDArray[np.float32]]:
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
    ) -> dict[str, Classified]:
        """{task: classes and probabilities}; `raw` leaves the calibration out.

        `titles` are the posts that are answered, one a comment, "" where there is none.
        """
        found: dict[str, Classified] = {}
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
