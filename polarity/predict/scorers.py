"""What scores comments: a run's own model, and an ensemble of runs; and the shape that all scorers share.

A model tokenizes as in training and takes batches of similar length. An ensemble is the weighted mean of its members' log-probabilities,
normalised (a product of experts, Hinton 2002). ensemble.json: {"schema_version": 1, "members": ["../a", ...], "weights": [...]}, members
relative to the ensemble's folder or absolute. With "linear": true the folder `linear/` beside it is one more member, whose weight is the
last one.

Shapes: N rows, K classes.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from polarity.arrays import Codes, Floats
from polarity.artifacts import CONFIG, ENSEMBLE, MODEL, RunFolder
from polarity.config import DataConfig
from polarity.data.batch import Corpus, evaluation_batches
from polarity.data.tokenize import plain_backend, tokenize_columns
from polarity.encoders import load_tokenizer, transformers_quiet
from polarity.environment import TokenStatistics
from polarity.errors import EncoderError, RunError
from polarity.evaluate.drift import describe_tokens
from polarity.evaluate.metrics import softmax
from polarity.model.inference import precision_here, score_corpus
from polarity.model.multitask import MultitaskModel, load_model
from polarity.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from polarity.baselines.floors import LinearFloor


@dataclass(frozen=True)
class Scores:
    """One task's scores: `probabilities` (N, K) float32 in class order, `predicted` (N,) int64 class indices."""

    probabilities: NDArray[np.float32]
    predicted: NDArray[np.int64]


class Scorer(Protocol):
    """Scores a non-empty table with the columns `title` and `comment`: {task: scores in row order}, before any calibration."""

    @property
    def labels(self) -> dict[str, list[str]]: ...

    def __call__(self, table: pa.Table) -> dict[str, Scores]: ...

    def token_statistics(self, table: pa.Table) -> TokenStatistics | None:
        """What `polarity.evaluate.drift.describe_tokens` says of the rows; None for a scorer without a tokenizer."""


@dataclass(frozen=True)
class ModelScorer:
    """A model on its device with its tokenizer; `votes` is the mode of multi-sample dropout, `backend` the tokenizer without cuts."""

    model: MultitaskModel
    labels: dict[str, list[str]]
    backend: Any
    pad_id: int
    unknown_id: int | None
    types: bool
    data: DataConfig
    votes: str
    device: torch.device
    batch_size: int
    precision: str

    @classmethod
    def load(cls, run: Run, *, votes: str | None, device: str, batch_size: int, precision: str) -> "ModelScorer":
        """From a run folder's config.yaml and model/. Raises RunError: files missing, damaged or at odds, no such device."""
        chosen = choose_device(device)
        model, tokenizer = load_parts(run.folder)
        config = run.config
        if config.labels != dict(model.config.task_labels or {}):
            raise RunError(f"{run.uri}: {CONFIG} and {MODEL}/config.json name different tasks or classes; they are not of one run")
        return cls(
            model=model.to(chosen),  # type: ignore[arg-type]
            labels=config.labels,  # config.json is sorted by name, the run's own order is this
            backend=plain_backend(tokenizer),  # made once: for 250,000 pieces it takes a second
            pad_id=tokenizer.pad_token_id,
            unknown_id=tokenizer.unk_token_id,
            types="token_type_ids" in tokenizer.model_input_names,
            data=config.data,
            votes=votes or model.config.inference_mode,
            device=chosen,
            batch_size=batch_size,
            precision=precision_here(precision, chosen),
        )

    def __call__(self, table: pa.Table) -> dict[str, Scores]:
        corpus = self.corpus(table)
        found = {
            task: Scores(np.empty((len(corpus), len(names)), np.float32), np.empty(len(corpus), np.int64))
            for task, names in self.labels.items()
        }
        batches = evaluation_batches(corpus.lengths, self.batch_size)
        for rows, scores in score_corpus(self.model, corpus, batches, self.device, self.precision, self.votes):
            for task, (probabilities, predicted) in scores.items():
                found[task].probabilities[rows], found[task].predicted[rows] = probabilities, predicted
        return found

    def corpus(self, table: pa.Table) -> Corpus:
        """The rows as tokens, cut as in training."""
        tokens = self._tokens(table)
        return Corpus.from_table(tokens.append_column("row_id", pa.nulls(table.num_rows, pa.string())), [], self.pad_id)

    def token_statistics(self, table: pa.Table) -> TokenStatistics:
        """Lengths and unknown tokens of the rows, to be compared with those of training."""
        return describe_tokens(self._tokens(table)["input_ids"], self.unknown_id)

    def _tokens(self, table: pa.Table) -> pa.Table:
        texts = table.select(["title", "comment"]).cast(pa.schema([("title", pa.large_string()), ("comment", pa.large_string())]))
        return tokenize_columns(texts, self.backend, self.data, self.types)


def load_parts(folder: RunFolder) -> tuple[MultitaskModel, "PreTrainedTokenizerFast"]:
    """Model (on the CPU, in evaluation mode) and tokenizer of a run folder, wherever it lies."""
    # transformers is quiet: what it would report of the loading, `load_model` checks itself
    with tempfile.TemporaryDirectory(prefix="polarity-model-") as temporary, transformers_quiet():
        local = folder.fetch_folder(MODEL, Path(temporary))
        model = load_model(local)
        try:
            return model, load_tokenizer(local)
        except EncoderError as error:
            raise RunError(f"{folder.uri}/{MODEL}: {error}") from error


def choose_device(name: str) -> torch.device:
    """The torch device of `auto` (a GPU where there is one), cpu, cuda, cuda:N or mps. Raises RunError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RunError(f"device {name!r}: no such kind of device; take auto, cpu, cuda, cuda:1 or mps") from error
    lacking = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if lacking or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise RunError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA GPUs that torch can use; take cpu or auto")
    if device.type not in ("cpu", "cuda", "mps"):
        raise RunError(f"device {name!r}: take auto, cpu, cuda, cuda:1 or mps")
    return device


Probabilities = Mapping[str, NDArray[np.floating]]
"""{task: (N, K)} of one member."""
DECIMALS = 3
"""Of fitted weights."""
SMALLEST = 1e-6
"""Probabilities below count as this: a baseline's 0 for a class that it never saw must not forbid the class."""

LINEAR = "linear"
"""The linear floor as a member of an ensemble: its folder, its key in ensemble.json, and its name."""


@dataclass(frozen=True)
class LinearScorer:
    """The fitted floor; a class that it never saw has probability 0."""

    floor: "LinearFloor"
    labels: dict[str, list[str]]

    @classmethod
    def load(cls, folder: RunFolder, name: str = LINEAR) -> "LinearScorer":
        """From a folder of a run, local or remote. Raises RunError: files missing or damaged."""
        from polarity.baselines.floors import load_linear  # scikit-learn is slow to import, and most runs have no such member

        with tempfile.TemporaryDirectory(prefix="polarity-linear-") as temporary:
            return cls(*load_linear(folder.fetch_folder(name, Path(temporary))))

    def __call__(self, table: pa.Table) -> dict[str, Scores]:
        found = self.floor.probabilities(table)
        return {task: Scores(found[task].astype(np.float32), found[task].argmax(axis=1)) for task in self.labels}

    def token_statistics(self, table: pa.Table) -> None:
        """It reads words and characters, not tokens."""


@dataclass(frozen=True)
class EnsembleScorer:
    """Members with their weights, which need not sum to one."""

    members: Sequence[Scorer]
    weights: Sequence[float]

    @property
    def labels(self) -> dict[str, list[str]]:
        return self.members[0].labels

    def token_statistics(self, table: pa.Table) -> TokenStatistics | None:
        """Those of the first member that has a tokenizer."""
        return next((found for member in self.members if (found := member.token_statistics(table)) is not None), None)

    def __call__(self, table: pa.Table) -> dict[str, Scores]:
        scored = [member(table) for member in self.members]
        return {task: combine([scores[task].probabilities for scores in scored], self.weights) for task in self.labels}


def combine(probabilities: Sequence[NDArray[np.floating]], weights: Sequence[float]) -> Scores:
    """Scores of one task from the members' probabilities, each (N, K): softmax of the weighted mean of their logarithms."""
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    logs_NK = sum(share * np.log(np.clip(p, SMALLEST, 1.0).astype(np.float64)) for share, p in zip(shares, probabilities, strict=True))
    mean_NK = softmax(np.asarray(logs_NK))
    return Scores(mean_NK.astype(np.float32), mean_NK.argmax(axis=1))


def fit_weights(members: Sequence[Probabilities], labels: Mapping[str, Codes]) -> list[float]:
    """Weights of at least 0 that sum to 1 and minimise the mean over tasks of the class-balanced negative log-likelihood.

    The likelihood is of the members' pooled probabilities, which makes it convex in the weights (logarithmic opinion pool, Heskes 1998).
    `labels[task]` are class indices (N,), -1 where missing. Raises RunError where the search fails.
    """
    from scipy.optimize import minimize

    count = len(members)
    tasks = [_task_terms([member[task] for member in members], codes) for task, codes in labels.items() if (codes >= 0).any()]

    def loss(weights_M: Floats) -> tuple[float, Floats]:
        total, slope_M = 0.0, np.zeros(count)
        for logs_MNK, codes, shares_N in tasks:
            pooled_NK = np.tensordot(weights_M, logs_MNK, axes=1)
            top_N = pooled_NK.max(axis=1)
            exp_NK = np.exp(pooled_NK - top_N[:, None])
            rows = np.arange(len(codes))
            total += float(shares_N @ (top_N + np.log(exp_NK.sum(axis=1)) - pooled_NK[rows, codes]))
            expected_MN = (logs_MNK * (exp_NK / exp_NK.sum(axis=1, keepdims=True))).sum(axis=2)
            slope_M += (expected_MN - logs_MNK[:, rows, codes]) @ shares_N
        return total / len(tasks), slope_M / len(tasks)

    start = np.full(count, 1.0 / count)
    sums_to_one = {"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": lambda w: np.ones(count)}
    found = minimize(loss, start, jac=True, method="SLSQP", bounds=[(0.0, 1.0)] * count, constraints=[sums_to_one])
    if not found.success:
        raise RunError(f"no weights could be fitted ({found.message}); use --weights equal")
    return [float(weight) for weight in np.round(np.clip(found.x, 0.0, 1.0), DECIMALS)]


def _task_terms(probabilities: Sequence[NDArray[np.floating]], codes: Codes) -> tuple[Floats, Codes, Floats]:
    """Logarithms (M, N, K), class indices (N,) and balanced shares (N,) that sum to 1, of the labelled rows."""
    known = codes >= 0
    logs_MNK = np.log(np.clip(np.stack([p[known] for p in probabilities]).astype(np.float64), SMALLEST, 1.0))
    labelled = codes[known]
    weight_N = 1.0 / np.bincount(labelled)[labelled]
    return logs_MNK, labelled, weight_N / weight_N.sum()


def load_ensemble(run: Run, load_member: Callable[[Run], Scorer]) -> EnsembleScorer:
    """The ensemble of a run; members are taken without their own calibration. Raises RunError where it cannot be used."""
    content, place = run.ensemble_record, f"{run.uri}/{ENSEMBLE}"
    runs = run.members  # refuses what is no list
    names = [*content["members"], *([LINEAR] if content.get(LINEAR) else [])]
    if not names:
        raise RunError(f"{place}: `members` must be a list of run folders; make the ensemble again")
    weights = _weights(content.get("weights"), len(names), place)
    members = [load_member(member) for member in runs]
    members += [LinearScorer.load(run.folder)] if content.get(LINEAR) else []
    for name, member in zip(names, members, strict=True):
        if member.labels != members[0].labels:
            raise RunError(f"{place}: the member {name} has other tasks or classes than {names[0]}")
    return EnsembleScorer(members, weights)


def _weights(given: Any, count: int, place: str) -> list[float]:
    numbers = [1.0] * count if given is None else given
    fine = isinstance(numbers, list) and all(isinstance(w, int | float) and isfinite(w) and w >= 0 for w in numbers)
    if not fine or len(numbers) != count or not sum(numbers):
        raise RunError(f"{place}: `weights` must be {count} numbers of at least 0, not all 0: one a member; make the ensemble again")
    return [float(weight) for weight in numbers]
