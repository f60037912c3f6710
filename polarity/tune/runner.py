"""A study's rows and trials: prepare the rows once, give every trial what it needs, and run them on Ray.

All arms and seeds have one split, in which the rows that measure an effect have decided nothing (rule 8):

train       the configuration's training rows less the inner validation rows
validation  an inner part of the training rows (15 %, stratified by all labels jointly, by the split's seed): early stopping and ASHA
test        the effect rows: the configuration's validation rows, or its test rows where that is asked for
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from polarity.artifacts import CHECKPOINTS, CONFIG, LEDGER, RunFolder
from polarity.config import Config, SplitConfig
from polarity.data.batch import Corpus, steps_per_epoch
from polarity.data.duplicates import without_leaks
from polarity.data.ledger import Ledger, TaskStatistics, build_ledger
from polarity.data.seen import title_keys, titles_apart
from polarity.data.split import load_splits, split_indices
from polarity.data.tokenize import tokenize_parts
from polarity.encoders import EncoderFiles, load_tokenizer, pinned, resolve_encoder
from polarity.errors import ConfigError, DataError, RunError, Say
from polarity.resolve import dump_config
from polarity.strategy import with_settings
from polarity.study import Study, TrialRecord
from polarity.train.cluster import start_ray
from polarity.train.world import World, resolve_precision
from polarity.tune.conductor import Budget, Conductor, trials_of
from polarity.tune.ray_tune import Tokens, place_trials, run_trials
from polarity.tune.terminal import live_or_lines
from polarity.tune.trial import TrialSpec

INNER_SHARE = 0.15
_OWN = ("max_length", "max_comment", "max_title", "order")
"""What an arm may change about the texts; tokens are made once for each combination."""
_FREE = {*_OWN, "oversample"}


@dataclass(frozen=True)
class StudyRows:
    """Canonical tables `train`, `validation` and `test` (see the module), and a hash of what is in them."""

    parts: dict[str, pa.Table]
    fingerprint: str

    @property
    def counts(self) -> dict[str, int]:
        return {name: table.num_rows for name, table in self.parts.items()}

    @cached_property
    def unit(self) -> Literal["row", "title"]:
        """What intervals of the effect rows are about; see `titles_apart`."""
        return "title" if titles_apart(title_keys(self.parts["train"]["title"]), self.parts["test"]["title"]) else "row"


def study_rows(config: Config, *, effects_on: str, say: Say) -> StudyRows:
    """Read and cut the data as `config` says; `effects_on` is `validation` or `test`. Raises DataError as `load_splits` does."""
    splits = load_splits(config.data, say)
    effect = splits.parts.get(effects_on)
    if effect is None:
        raise ConfigError(f"--effects-on {effects_on}: the data has no such part; give it one, or measure on the validation rows")
    inner = SplitConfig(kind="joint", seed=config.data.split.seed, validation=INNER_SHARE, test=0.0)
    train_rows, held_rows, _ = split_indices(splits.train, inner, list(config.data.tasks))
    train, held = splits.train.take(pa.array(train_rows)), splits.train.take(pa.array(held_rows))
    if config.data.duplicates != "allow":
        train = _without_leaks(train, held, say)
    _check_classes({"training": train, "inner validation": held}, config)
    parts = {"train": train, "validation": held, "test": effect}
    say(
        f"study rows: {train.num_rows:,} train, {held.num_rows:,} of the training rows stop early and rank (inner validation), "
        f"{effect.num_rows:,} {effects_on} rows measure effects"
    )
    return StudyRows(parts, _fingerprint(parts, config))


def _without_leaks(train: pa.Table, held: pa.Table, say: Say) -> pa.Table:
    """Duplicates of inner validation rows leave the training rows, as those of the outer ones did."""
    apart = without_leaks(train, held, say)
    if apart.dropped:
        say(f"{apart.dropped:,} training rows have a duplicate or near duplicate among the inner validation rows; dropped from train")
    return apart.train


def _check_classes(parts: Mapping[str, pa.Table], config: Config) -> None:
    for part, table in parts.items():
        for task, labels in config.labels.items():
            present = set(pc.unique(table[task]).to_pylist())
            absent = [label for index, label in enumerate(labels) if index not in present]
            if absent:
                raise DataError(
                    f"the {part} rows of the study have no row of {task} that is {' or '.join(absent)}: a study takes {INNER_SHARE:.0%} of "
                    "the training rows for early stopping, so each class needs about ten of them"
                )


def _fingerprint(parts: Mapping[str, pa.Table], config: Config) -> str:
    digest = hashlib.sha256()
    for name, table in parts.items():
        digest.update(name.encode())
        for column in ("row_id", "title", "comment", *config.labels):
            # As text, so that chunks and offsets do not matter.
            digest.update("\x1f".join(map(str, table[column].to_pylist())).encode())
    return digest.hexdigest()


def check_same_rows(configs: Mapping[str, Config], reference: str) -> None:
    """Refuse arms that would see other rows, tasks or another number of workers than the reference. Raises ConfigError."""
    base = configs[reference]
    wanted = base.data.model_dump(exclude=_FREE)
    for name, config in configs.items():
        own = config.data.model_dump(exclude=_FREE)
        changed = [f"data.{key}" for key in wanted if own[key] != wanted[key]]
        if config.cluster != base.cluster:
            changed.append("cluster")
        if changed:
            raise ConfigError(
                f"the arm {name} changes {', '.join(changed)}: arms of a study are compared on the same rows and in the same place. "
                "Set it for all arms, or run another study"
            )


def token_key(config: Config) -> str:
    """Arms of one key share their tokens."""
    own = {key: getattr(config.data, key) for key in _OWN}
    return hashlib.sha256(repr((config.model.encoder, config.model.revision, sorted(own.items()))).encode()).hexdigest()[:16]


def tokenized(rows: StudyRows, configs: Mapping[str, Config], say: Say) -> dict[str, Tokens]:
    """{key: tokenized parts}, one for each `token_key` among the arms. Raises ConfigError naming an arm whose length does not fit."""
    from polarity.model.encoder import check_length  # torch takes seconds to import

    found: dict[str, Tokens] = {}
    for name, config in configs.items():
        key = token_key(config)
        if key in found:
            continue
        encoder = resolve_encoder(config.model.encoder, config.model.revision)
        try:
            check_length(config.data, encoder.folder)
        except ConfigError as error:
            raise ConfigError(f"arm {name}: {error}") from error
        tokenizer = load_tokenizer(encoder.folder)
        found[key] = tokenize_parts(rows.parts, tokenizer, config.data, say)
    return found


@cache
def pad_id(encoder: str, revision: str | None) -> int:
    """The padding token of an encoder's tokenizer."""
    return int(load_tokenizer(resolve_encoder(encoder, revision).folder).pad_token_id)


@dataclass(frozen=True)
class Limits:
    """How a study is run: none of it changes a score."""

    budget: Budget = field(default_factory=Budget)
    max_concurrent: int | None = None
    gpus_per_trial: float | None = None


@dataclass(frozen=True)
class PreparedStudy:
    """The arms' configurations, the rows, the tokens by key, and each arm's account of its training rows and encoder."""

    configs: Mapping[str, Config]
    rows: StudyRows
    tokens: Mapping[str, Tokens]
    ledgers: Mapping[str, Ledger]
    encoders: Mapping[str, EncoderFiles]

    def statistics(self, arm: str) -> dict[str, TaskStatistics]:
        """What the arm's loss must know of each task."""
        return self.ledgers[arm].task_statistics

    def total_steps(self, config: Config) -> int:
        """Optimizer steps of a configuration's whole schedule (up to `train.max_steps`)."""
        corpus = Corpus.from_table(self.tokens[token_key(config)]["train"], list(config.labels), 0)
        steps = sum(steps_per_epoch(corpus, config))
        return min(steps, config.train.max_steps or steps)

    @property
    def epochs(self) -> dict[str, int]:
        """Epochs of each arm's schedule."""
        return {name: config.train.epochs for name, config in self.configs.items()}


def prepare_study(configs: Mapping[str, Config], rows: StudyRows, say: Say) -> PreparedStudy:
    """Tokenize once for each way in which arms cut the texts, and draw up each arm's ledger of the inner training rows.

    The configurations are kept with absolute places and the hub's commit: trials, and a study that goes on, find the same files.
    """
    files = {
        which: resolve_encoder(*which) for which in {(c.model.encoder, c.model.revision) for c in configs.values()}
    }  # each hashed once
    encoders = {name: files[config.model.encoder, config.model.revision] for name, config in configs.items()}
    configs = {name: pinned(config, encoders[name]) for name, config in configs.items()}
    ledgers = {name: build_ledger(rows.parts["train"], config) for name, config in configs.items()}
    return PreparedStudy(configs, rows, tokenized(rows, configs, say), ledgers, encoders)


def run_study(study: Study, prepared: PreparedStudy, limits: Limits, say: Say) -> str | None:
    """Run the study's trials until they are done or the budget is used up (then the reason is returned); all is in study.json.

    Raises RunError where no trial can start, naming what is lacking, and where Tune was interrupted.
    """
    cluster = prepared.configs[study.reference].cluster
    start_ray(cluster, say)
    placement = place_trials(cluster, gpus_per_trial=limits.gpus_per_trial, max_concurrent=limits.max_concurrent)
    say(str(placement))
    _decide_precision(study, on_gpu="GPU" in placement.need)
    with live_or_lines(say, placement.concurrent) as watcher:
        conductor = Conductor(study, prepared.epochs, study.file.asha, placement.concurrent, limits.budget, watcher)
        conductor.prepare = lambda trial: make_run_folder(study, prepared, trial)
        run_trials(conductor, trial_specs(study, prepared), prepared.tokens, placement, cluster)
    _drop_checkpoints(study)
    if conductor.closed is None and study.of(None, "pending"):
        raise RunError(f"the study was interrupted; what is done is kept: go on with --resume --study-dir {study.folder.uri}")
    return conductor.closed


def _decide_precision(study: Study, *, on_gpu: bool) -> None:
    """On CPUs `train.precision: auto` times two products, which could come out differently in two trials: decide once, and keep it."""
    if study.file.precision is None:
        study.file.precision = "auto" if on_gpu else resolve_precision("auto", World())
        study.save()


def trial_config(study: Study, config: Config, seed: int) -> Config:
    """The arm's configuration with the trial's seed and the study's number format."""
    precision = {"train.precision": study.file.precision} if config.train.precision == "auto" else {}
    return with_settings(config, {"train.seed": seed, **precision})


def trial_specs(study: Study, prepared: PreparedStudy) -> dict[str, TrialSpec]:
    """{trial id: what its process needs} of every trial that this study may yet run."""
    later = [] if study.file.screen else trials_of("confirm", study.arm_names, study.file.seeds.confirm, prepared.epochs)
    known = {trial.id: trial for trial in [*later, *study.trials]}
    specs = {}
    for name, trial in known.items():
        if trial.status != "pending":
            continue
        config = trial_config(study, prepared.configs[trial.arm], trial.seed)
        specs[name] = TrialSpec(
            config,
            prepared.statistics(trial.arm),
            token_key(config),
            trial_place(study, trial),
            prepared.total_steps(config),
            by_title=prepared.rows.unit == "title",
            encoder=prepared.encoders[trial.arm],
            pad_id=pad_id(config.model.encoder, config.model.revision),
            tags=trial_tags(study, trial),
        )
    return specs


def trial_tags(study: Study, trial: TrialRecord) -> dict[str, str]:
    """What a trial's metrics are told apart by: its run is called STUDY/TRIAL, for trials of two studies may share an id."""
    return {"run": f"{study.name}/{trial.id}", "study": study.name, "arm": trial.arm, "seed": str(trial.seed)}


def _drop_checkpoints(study: Study) -> None:
    """Trials that were stopped or failed keep none: they will not go on."""
    for trial in study.of(None, "stopped", "failed"):
        if study.folder.exists(f"{trial.run_dir}/{CHECKPOINTS}"):
            study.folder.delete_folder(f"{trial.run_dir}/{CHECKPOINTS}")


def trial_place(study: Study, trial: TrialRecord) -> str:
    """The trial's run folder as a path or URI that every node understands."""
    root = study.folder
    return f"{root.uri.rstrip('/')}/{trial.run_dir}" if root.local is None else str(root.local / trial.run_dir)


def make_run_folder(study: Study, prepared: PreparedStudy, trial: TrialRecord) -> None:
    """Make the trial's run folder with what is known before its first step."""
    folder = study.folder
    if not folder.exists(f"{trial.run_dir}/{CONFIG}"):
        RunFolder.create(trial_place(study, trial))
    folder.write_text(f"{trial.run_dir}/{CONFIG}", dump_config(trial_config(study, prepared.configs[trial.arm], trial.seed)))
    prepared.ledgers[trial.arm].write(folder, f"{trial.run_dir}/{LEDGER}")
