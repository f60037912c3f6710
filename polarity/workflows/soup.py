"""`polarity soup`: several runs of one architecture, or checkpoints of one, as one model with the mean of their weights."""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import torch

from polarity import artifacts
from polarity.artifacts import RunFolder, user_cache_dir
from polarity.config import Config
from polarity.data.batch import Corpus
from polarity.data.split import Splits, load_splits
from polarity.data.tokenize import tokenize
from polarity.encoders import transformers_quiet
from polarity.environment import MadeFrom
from polarity.errors import RunError, Say
from polarity.evaluate import Metrics, build_predictions
from polarity.model.multitask import MultitaskModel
from polarity.predict.scorers import load_parts
from polarity.resolve import leaves
from polarity.run import Run, SoupRecord
from polarity.train.checkpoints import Weights
from polarity.train.validate import PartScores, macro_f1_scores, predict
from polarity.train.world import World, device_here, use_threads
from polarity.workflows.members import aligned_predictions, new_run, open_members, write_run, writing

_CHECKPOINT = re.compile(rf"(?P<run>.+)/(?P<name>{artifacts.CHECKPOINTS}/epoch_\d+)/?")
_WEIGHTS = "model.safetensors"
# What decides a row's tokens; all else of `data` may differ.
_LENGTHS = ("order", "max_length", "max_comment", "max_title")
_NO_MATTER = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


def soup(runs: Sequence[str], out: str, *, greedily: bool = False, say: Say = print) -> Metrics:
    """Write the soup's run folder and return the content of its metrics.json.

    `runs` are run folders, or RUN/checkpoints/epoch_N for the weights of an epoch. `greedily` adds a member, from the best down, only
    where the overall macro-F1 on validation does not fall. Raises RunError: too few runs, other architectures, labels, lengths,
    tokenizers or splits, a damaged file, a folder that holds a run; DataError: the data cannot be read.
    """
    with new_run(out) as folder:
        metrics = _make(folder, runs, greedily, say)
    say(f"run folder: {out}")
    return metrics


def _make(folder: RunFolder, runs: Sequence[str], greedily: bool, say: Say) -> Metrics:
    if len(runs) < 2:
        raise RunError(f"{len(runs)} run given: a soup needs at least two")
    places = [_place(run) for run in runs]
    if len(set(places)) < len(places):
        raise RunError("a run or checkpoint is named twice: name each once")
    members = {run: member for member, run in zip(open_members(_distinct(places), least=1), _distinct(places), strict=True)}
    first = members[places[0][0]]
    splits = load_splits(first.config.data, say)
    for member in members.values():
        aligned_predictions(member, splits)
    use_threads(first.config.cluster.cpus_per_worker)
    with tempfile.TemporaryDirectory(prefix="polarity-soup-") as temporary:
        averaging = _averaging(members, first, splits, say)
        readers = [averaging.reader(members[run].folder, name, Path(temporary) / str(number)) for number, (run, name) in enumerate(places)]
        record, predictions = averaging.make(readers, list(runs), greedily, say)
    with writing(folder, artifacts.MODEL) as place, transformers_quiet():
        model: Any = averaging.model
        model.to("cpu").save_pretrained(place)
        averaging.tokenizer.save_pretrained(place)
    chose = sorted({what for member in members.values() for what in member.decided.get("validation", [])})
    folder.write_json(artifacts.SOUP, {**record, "decided": chose})
    made_from: list[MadeFrom] = [
        {"run": run, "seeds": members[place[0]].environment.get("seeds", {})} for run, place in zip(runs, places, strict=True)
    ]
    return write_run(folder, list(members.values()), made_from, splits, predictions, say)


def _place(run: str) -> tuple[str, str | None]:
    """(run folder, checkpoint in it or None)."""
    found = _CHECKPOINT.fullmatch(run)
    return (found["run"], found["name"]) if found else (run.rstrip("/") or run, None)


def _distinct(places: Sequence[tuple[str, str | None]]) -> list[str]:
    return list(dict.fromkeys(run for run, _ in places))


def _averaging(members: dict[str, Run], first: Run, splits: Splits, say: Say) -> "_Averaging":
    """The first run's model, to be filled with weights, once it is clear that all runs' weights would fit; and its tokens."""
    model, tokenizer = load_parts(first.folder)
    for member in members.values():
        if member is first:
            continue
        other_model, other_tokenizer = load_parts(member.folder)
        _check_same_model(first, model, member, other_model)
        if other_tokenizer.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str():
            raise RunError(f"{member.folder.uri}: has another tokenizer than {first.folder.uri}: their weights cannot be averaged")
    config = first.config
    corpora = {
        name: Corpus.from_table(
            tokenize(table, tokenizer, config.data, cache_dir=user_cache_dir(), say=say), list(config.labels), tokenizer.pad_token_id
        )
        for name, table in splits.parts.items()
    }
    world = World.current(device_here(config.cluster.gpu))
    moved: Any = model  # transformers types `to` in a way that mypy cannot follow
    return _Averaging(moved.to(world.device), tokenizer, config, splits, corpora, world)


def _check_same_model(first: Run, model: MultitaskModel, other: Run, other_model: MultitaskModel) -> None:
    mine, theirs = (
        {key: value for key, value in leaves(m.config.to_dict()).items() if key.rpartition(".")[2] not in _NO_MATTER}
        for m in (model, other_model)
    )
    mine |= {f"data.{name}": getattr(first.config.data, name) for name in _LENGTHS}
    theirs |= {f"data.{name}": getattr(other.config.data, name) for name in _LENGTHS}
    for key in sorted({*mine, *theirs}):
        if mine.get(key) != theirs.get(key):
            raise RunError(
                f"{other.folder.uri}: {key} is {theirs.get(key)!r}, and {mine.get(key)!r} in {first.folder.uri}: the weights of "
                "different models cannot be averaged; average what they predict with `polarity ensemble`"
            )


@dataclass
class _Averaging:
    """One model whose weights are replaced, and the rows that it is scored on."""

    model: MultitaskModel
    tokenizer: Any
    config: Config
    splits: Splits
    corpora: dict[str, Corpus]
    world: World

    def make(self, readers: Sequence[Callable[[], Weights]], names: Sequence[str], greedily: bool, say: Say) -> tuple[SoupRecord, pa.Table]:
        """Fill the model with the soup; returns soup.json's content and the predictions of all held-out rows."""
        singles = []
        for name, read in zip(names, readers, strict=True):
            singles.append(self._score(read()))
            say(f"{name}: {100 * singles[-1]:.1f} % overall macro-F1 on validation")

        def score_of(positions: list[int]) -> float:
            return self._score(average([readers[position] for position in positions]))

        kept, tried = greedy(singles, score_of) if greedily else (list(range(len(readers))), [])
        score = score_of(kept)
        for step in tried[1:]:
            say(f"with {names[step['member']]}: {100 * step['score']:.1f} %, {'kept' if step['kept'] else 'left out'}")
        best = max(singles)
        against = f"{100 * (score - best):+.1f} against the best single one"
        say(f"soup of {len(kept)} of {len(names)}: {100 * score:.1f} % on validation, {against}")
        if score < best:
            say("averaging made it worse than the best single run: seeds that started apart average badly; use --greedy, or an ensemble")
        record: SoupRecord = {
            "kind": "greedy" if greedily else "uniform",
            "members": [{"run": n, "validation": s, "kept": i in kept} for i, (n, s) in enumerate(zip(names, singles, strict=True))],
            "tried": [{"member": names[step["member"]], "score": step["score"], "kept": step["kept"]} for step in tried],
            "validation": score,
        }
        return record, self._predictions()

    def reader(self, folder: RunFolder, checkpoint: str | None, target: Path) -> Callable[[], Weights]:
        """A function that reads the weights of a run's model, or of one of its checkpoints."""
        whole = _load(folder, artifacts.MODEL, target)
        if checkpoint is None:
            return whole
        part, (table, used) = _load(folder, checkpoint, target), self._words()
        return lambda: completed(part(), whole(), table, used)

    def _words(self) -> tuple[str, torch.Tensor]:
        """Name of the encoder's word table, and the rows of it that training can have kept alone."""
        weight = self.model.encoder.get_input_embeddings().weight
        name = next(name for name, parameter in self.model.named_parameters() if parameter is weight)
        tokens = np.concatenate([self.corpora["train"].used_tokens(), self.corpora["validation"].used_tokens()])
        return name, torch.from_numpy(np.unique(np.append(tokens, self.tokenizer.pad_token_id)).astype(np.int64))

    def _score(self, weights: Weights) -> float:
        self._fill(weights)
        return macro_f1_scores(self._predict("validation"), self.corpora["validation"], self.config.labels)["overall"]

    def _fill(self, weights: Weights) -> None:
        own = self.model.state_dict()
        unfit = sorted({*own} ^ {*weights}) or sorted(name for name in own if own[name].shape != weights[name].shape)
        if unfit:
            raise RunError(f"the weights of a run or checkpoint do not fit the model: {', '.join(unfit[:5])}")
        self.model.load_state_dict(weights)

    def _predict(self, split: str) -> PartScores:
        return predict(self.model, self.corpora[split], self.world, batch_size=self.config.train.eval_batch_size, precision="fp32")

    def _predictions(self) -> pa.Table:
        parts = []
        for name, table in self.splits.held_out.items():
            scores = self._predict(name)
            parts.append(build_predictions(name, table, scores.probabilities, self.config.labels, scores.predicted))
        return pa.concat_tables(parts)


def _load(folder: RunFolder, name: str, target: Path) -> Callable[[], Weights]:
    """Reads the weights in a run's folder `name`; of a remote run they are fetched once, now."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder.fetch_folder(name, target) / _WEIGHTS

    def read() -> Weights:
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{folder.uri}/{name}/{_WEIGHTS}: cannot be read ({error})") from error

    return read


def average(members: Sequence[Callable[[], Weights]]) -> Weights:
    """The mean of the members' floating-point tensors, summed in float64; other tensors are the first member's.

    Each member is a function that reads its weights, so that two sets are in memory at most.
    """
    total: dict[str, torch.Tensor] = {}
    kinds: Weights = {}
    for number, read in enumerate(members):
        for name, tensor in read().items():
            if number == 0:
                kinds[name] = tensor
                total[name] = tensor.double() if tensor.is_floating_point() else tensor
            elif tensor.is_floating_point():
                total[name] += tensor.double()
    return {name: (sum_ / len(members)).to(kinds[name].dtype) if kinds[name].is_floating_point() else sum_ for name, sum_ in total.items()}


class Attempt(TypedDict):
    """What was tried: a member (its position), the score with it, and whether it was kept."""

    member: int
    score: float
    kept: bool


def greedy(scores: Sequence[float], score_of: Callable[[list[int]], float]) -> tuple[list[int], list[Attempt]]:
    """The members (positions in `scores`) of the greedy soup, and what was tried in order.

    From the best single score down, a member is added where `score_of` the members so far with it is not below their score without it.
    """
    order = sorted(range(len(scores)), key=lambda position: (-scores[position], position))
    kept, best = [order[0]], scores[order[0]]
    tried = [Attempt(member=order[0], score=best, kept=True)]
    for position in order[1:]:
        found = score_of([*kept, position])
        better = found >= best
        tried.append(Attempt(member=position, score=found, kept=better))
        if better:
            kept, best = [*kept, position], found
    return kept, tried


def completed(part: Weights, whole: Weights, table: str, used: torch.Tensor) -> Weights:
    """A checkpoint's weights as a whole model's: what training left out of it comes from the run's own model, `whole`.

    That is frozen layers, and in the word table `table` the rows that are not in `used` (see `polarity.model.frozen`), of which
    `whole` has what weight decay left at the run's best epoch.
    """
    found = {**whole, **part}
    rows = part.get(table)
    if rows is not None and rows.shape[0] == len(used) < whole[table].shape[0]:
        found[table] = whole[table].clone()
        found[table][used] = rows
    return found
