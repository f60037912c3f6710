"""The study on Ray Tune: where trials fit, what starts next and what stops (the conductor says), and one `fit`."""

import logging
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray import cloudpickle, tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, PlacementGroupFactory, RunConfig, Stopper, TuneConfig
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from polarity.config import ClusterConfig
from polarity.errors import ConfigError, PolarityError, RunError
from polarity.train.cluster import lacking, takes_gpus, wait_until_fits
from polarity.tune.conductor import Conductor
from polarity.tune.trial import StudyTrial, TrialSpec, begin_alone, begin_group

Tokens = dict[str, pa.Table]
"""The tokenized parts of a study's rows, by name."""

ERROR = "error.txt"
"""In a trial's folder: the whole error of its last failure."""

_HEAD = "node:__internal_head__"
_NEEDS = "no trial can start: each needs"


@dataclass(frozen=True)
class Placement:
    """`concurrent` trials at a time; `bundle` is what the process of a trial reserves, `need` what the whole trial takes."""

    concurrent: int
    bundle: dict[str, float]
    need: dict[str, float]

    def __str__(self) -> str:
        each = " and ".join(f"{amount:g} {name}{'s' if amount != 1 else ''}" for name, amount in self.need.items())
        return f"{self.concurrent} trial{'s' if self.concurrent > 1 else ''} at a time, {each} each"


def place_trials(cluster: ClusterConfig, *, gpus_per_trial: float | None = None, max_concurrent: int | None = None) -> Placement:
    """Place trials of `cluster.workers` workers each (0 counts as 1) on the running Ray cluster.

    A trial of one worker is one process with its CPUs and, where GPUs are wanted, one GPU or `gpus_per_trial` of one; with more workers it
    is a process on the head node that reserves nothing and a group of Ray Train beside it, so that waiting trials cannot use up what their
    own workers need. Waits `cluster.start_timeout_s` (on a local cluster 5 s) for the first trial to fit, then raises RunError with
    what is lacking. ConfigError: `gpus_per_trial` where it does not apply.
    """
    workers = max(1, cluster.workers)
    share = _gpu_share(cluster, workers, gpus_per_trial)
    need = {"CPU": workers * cluster.cpus_per_worker, **({"GPU": workers * share} if share else {})}
    fits = wait_until_fits(cluster, need, _NEEDS)
    if max_concurrent is not None and max_concurrent < 1:
        raise ConfigError(f"--max-concurrent must be at least 1 (got {max_concurrent})")
    concurrent = min(fits, max_concurrent or fits)
    return Placement(concurrent, dict(need) if workers == 1 else {"CPU": 0, _HEAD: 0.001}, need)


def _gpu_share(cluster: ClusterConfig, workers: int, gpus_per_trial: float | None) -> float:
    wanted = takes_gpus(cluster, workers)
    if gpus_per_trial is None:
        return 1.0 if wanted else 0.0
    if not 0 < gpus_per_trial <= 1 or workers > 1:
        raise ConfigError(
            f"--gpus-per-trial is the part of one GPU that a trial of one worker takes, above 0 and at most 1 (got {gpus_per_trial:g})"
        )
    if not wanted:
        raise ConfigError("--gpus-per-trial is given, but trials use no GPU here: the cluster has none, or cluster.gpu is never")
    return gpus_per_trial


def run_trials(
    conductor: Conductor, specs: Mapping[str, TrialSpec], tokens: Mapping[str, Tokens], placement: Placement, cluster: ClusterConfig
) -> None:
    """Run what the conductor says until it has no more; every event is in the record when this returns.

    `tokens` are put into the object store once. Raises RunError where trials cannot start, with what is lacking, and where Tune was
    interrupted; the record then says what is left.
    """
    _quieten()
    tables = {key: {part: ray.put(table) for part, table in parts.items()} for key, parts in tokens.items()}
    begin = begin_alone if cluster.workers <= 1 else begin_group
    watch = StartWatch(cluster, placement)
    with tempfile.TemporaryDirectory(prefix="polarity-tune-", ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(StudyTrial, begin=begin, specs=dict(specs), tables=tables), PlacementGroupFactory([placement.bundle])
            ),
            tune_config=TuneConfig(
                search_alg=StudyQueue(conductor),
                scheduler=StudyScheduler(conductor, specs),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=lambda trial: f"{_trial_name(trial)}_{trial.trial_id}",  # a second attempt has its own
            ),
            run_config=RunConfig(
                name=conductor.study.name,
                storage_path=scratch,
                callbacks=[watch],
                stop=watch.stopper,
                verbose=0,
                failure_config=FailureConfig(max_failures=0),  # the conductor counts them, over resumes too
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        finally:
            conductor.abandon()
    if watch.lacking is not None:
        raise RunError(watch.lacking)


def _trial_name(trial: Trial) -> str:
    """A trial is called the same in Ray's logs and folders as in study.json: stage, arm and seed."""
    return str(trial.config["trial"])


def _quieten() -> None:
    """Tune's own files, tables and working directories are not wanted: the study has its own record."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "1")  # a buffered epoch would be trained before it is judged
    for name in ("tune", "analysis.experiment_analysis", "execution.tune_controller"):
        logging.getLogger(f"ray.tune.{name}").setLevel(logging.CRITICAL)  # failures are told by the study, in a line each


class StudyQueue(Searcher):
    """Gives Tune the next trial when the conductor has one."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__(metric=None, mode=None)
        self._conductor = conductor

    def suggest(self, trial_id: str) -> Any:
        """Called whenever a place is free."""
        found = self._conductor.next()
        if found is False:
            return Searcher.FINISHED
        return None if found is None else {"trial": found}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The scheduler has told the conductor."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: study.json is the record."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: study.json is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: study.json is the record."""


class StudyScheduler(FIFOScheduler):
    """Tells the conductor what trials report and how they end, and stops those that it stops."""

    def __init__(self, conductor: Conductor, specs: Mapping[str, TrialSpec]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._conductor, self._specs = conductor, specs

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """An epoch's report."""
        name = trial.config["trial"]
        if "epoch" not in result:
            return str(TrialScheduler.CONTINUE)
        go_on = self._conductor.report(name, min(1.0, result["step"] / self._specs[name].total_steps), result)
        return str(TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """The end of a trial, of itself or because it was stopped; an interrupted one is not `done`."""
        name = trial.config["trial"]
        if result.get("done") and self._conductor.study.trial(name).status == "running":
            self._conductor.finish(name)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The trial or its process broke."""
        name, error = trial.config["trial"], _error_of(trial)
        study = self._conductor.study
        study.folder.write_text(f"{study.trial(name).run_dir}/{ERROR}", f"{error}\n")
        retry = not isinstance(getattr(error, "cause", error), PolarityError)  # what a user must mend breaks again
        self._conductor.fail(name, _in_words(error), retry=retry)


def _error_of(trial: Trial) -> Exception:
    """What broke the trial; Tune has just written it into its scratch folder on this machine, its only way out."""
    if not trial.pickled_error_file:
        return RunError(f"Ray Tune gave no reason (state {trial.status})")
    with open(trial.pickled_error_file, "rb") as file:
        found = cloudpickle.load(file)
    return found if isinstance(found, Exception) else RunError(str(found))


def _in_words(error: Exception) -> str:
    """One line: the remote traceback's last, or the first of what Ray says of a process that died."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return lines[-1] if isinstance(error, ray.exceptions.RayTaskError) else lines[0]


class StartWatch(Callback):
    """Ends the study with a word where trials wait and none runs for `cluster.start_timeout_s`: Tune itself would wait for ever."""

    def __init__(self, cluster: ClusterConfig, placement: Placement) -> None:
        self._cluster, self._placement = cluster, placement
        self._since: float | None = None
        self.lacking: str | None = None
        self.stopper = _StopAll(self)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Called ten times a second or so."""
        statuses = {trial.status for trial in trials}
        if Trial.RUNNING in statuses or Trial.PENDING not in statuses:
            self._since = None
            return
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since > self._cluster.start_timeout_s:
            self.lacking = lacking(self._cluster, self._placement.need, _NEEDS)


class _StopAll(Stopper):
    def __init__(self, watch: StartWatch) -> None:
        self._watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._watch.lacking is not None
