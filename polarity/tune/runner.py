"""A study's trials: prepare the rows once, give every trial what it needs, and run them on Ray."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from polarity.artifacts import CHECKPOINTS, CONFIG, LEDGER, RunFolder
from polarity.config import Config
from polarity.data.batch import Corpus, steps_per_epoch
from polarity.data.ledger import Ledger, TaskStatistics
from polarity.encoders import EncoderFiles, pinned
from polarity.errors import RunError
from polarity.resolve import dump_config
from polarity.strategy import with_settings
from polarity.study import Study, TrialRecord
from polarity.train.cluster import start_ray
from polarity.train.world import World, resolve_precision
from polarity.tune.conductor import MAX_ATTEMPTS, Budget, Conductor, Watcher, confirmation
from polarity.tune.ray_tune import place_trials, run_trials
from polarity.tune.rows import StudyRows, Tokens, encoders_of, ledgers, pad_id, token_key, tokenized
from polarity.tune.trial import KEEP_AFTER_S, TrialSpec

Say = Callable[[str], None]
Watching = Callable[[int], AbstractContextManager[Watcher]]
"""From the number of trials at a time to the display."""


@dataclass(frozen=True)
class Limits:
    """How a study is run: none of it changes a score."""

    budget: Budget = field(default_factory=Budget)
    max_concurrent: int | None = None
    gpus_per_trial: float | None = None
    max_attempts: int = MAX_ATTEMPTS
    keep_after_s: float = KEEP_AFTER_S


@dataclass(frozen=True)
class Prepared:
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


def prepare_study(configs: Mapping[str, Config], rows: StudyRows, say: Say) -> Prepared:
    """Tokenize once for each way in which arms cut the texts, and draw up each arm's ledger of the inner training rows.

    The configurations are kept with absolute places and the hub's commit: trials, and a study that goes on, find the same files.
    """
    encoders = encoders_of(configs)
    configs = {name: pinned(config, encoders[name]) for name, config in configs.items()}
    return Prepared(configs, rows, tokenized(rows, configs, say), ledgers(rows, configs), encoders)


def run_study(study: Study, prepared: Prepared, limits: Limits, watching: Watching, say: Say) -> str | None:
    """Run the study's trials until they are done or the budget is used up (then the reason is returned); all is in study.json.

    Raises RunError where no trial can start, naming what is lacking, and where Tune was interrupted.
    """
    cluster = prepared.configs[study.reference].cluster
    start_ray(cluster, say)
    placement = place_trials(cluster, gpus_per_trial=limits.gpus_per_trial, max_concurrent=limits.max_concurrent)
    say(str(placement))
    _decide_precision(study, on_gpu="GPU" in placement.need)
    with watching(placement.concurrent) as watcher:
        conductor = Conductor(study, prepared.epochs, study.file.asha, placement.concurrent, limits.budget, watcher, limits.max_attempts)
        conductor.prepare = lambda trial: make_run_folder(study, prepared, trial)
        run_trials(conductor, trial_specs(study, prepared, limits), prepared.tokens, placement, cluster)
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
    settings: dict[str, Any] = {"train.seed": seed}
    if config.train.precision == "auto":
        settings["train.precision"] = study.file.precision
    return with_settings(config, settings)


def trial_specs(study: Study, prepared: Prepared, limits: Limits) -> dict[str, TrialSpec]:
    """{trial id: what its process needs} of every trial that this study may yet run."""
    later = [] if study.file.screen else confirmation([arm.name for arm in study.arms], study.file.seeds.confirm, prepared.epochs)
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
            by_title=by_title(config),
            encoder=prepared.encoders[trial.arm],
            pad_id=pad_id(config.model.encoder, config.model.revision),
            tags=trial_tags(study, trial),
            keep_after_s=limits.keep_after_s,
        )
    return specs


def trial_tags(study: Study, trial: TrialRecord) -> dict[str, str]:
    """What a trial's metrics are told apart by: its run is called STUDY/TRIAL, for trials of two studies may share an id."""
    return {"run": f"{study.name}/{trial.id}", "study": study.name, "arm": trial.arm, "seed": str(trial.seed)}


def by_title(config: Config) -> bool:
    """Whether titles, not rows, are the units that intervals are about."""
    return config.data.split.kind == "group" and config.data.source is not None


def _drop_checkpoints(study: Study) -> None:
    """Trials that were stopped or failed keep none: they will not go on."""
    for trial in study.of(None, "stopped", "failed"):
        if study.folder.exists(f"{trial.run_dir}/{CHECKPOINTS}"):
            study.folder.delete_folder(f"{trial.run_dir}/{CHECKPOINTS}")


def trial_place(study: Study, trial: TrialRecord) -> str:
    """The trial's run folder as a path or URI that every node understands."""
    root = study.folder
    return f"{root.uri.rstrip('/')}/{trial.run_dir}" if root.local is None else str(root.local / trial.run_dir)


def make_run_folder(study: Study, prepared: Prepared, trial: TrialRecord) -> None:
    """Make the trial's run folder with what is known before its first step."""
    folder = study.folder
    if not folder.exists(f"{trial.run_dir}/{CONFIG}"):
        RunFolder.create(trial_place(study, trial))
    folder.write_text(f"{trial.run_dir}/{CONFIG}", dump_config(trial_config(study, prepared.configs[trial.arm], trial.seed)))
    folder.write_json(f"{trial.run_dir}/{LEDGER}", prepared.ledgers[trial.arm].to_json())
