"""`polarity tune`: draw configurations from a space, train them under ASHA, and write the best one as YAML that `polarity train` takes.

A search space in YAML says which settings are drawn, and from what:

optim.lr: {loguniform: [1.0e-5, 1.0e-4]}
loss.focal_gamma.sentiment: {uniform: [0, 3]}
model.pooling: {choice: [mean, attention, cls]}
data.oversample.alpha: {quniform: [0, 1, 0.1]}
"""

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polarity import tables
from polarity.config import Config
from polarity.encoders import require_encoders
from polarity.errors import ConfigError, RunError, Say, nearest
from polarity.resolve import dump_config, leaves
from polarity.study import Arm, Best, Study, TrialRecord, open_study_folder
from polarity.train.control import clock
from polarity.tune.designs import Base, arm_config
from polarity.tune.findings import effect_predictions, missing, overall_score, savings
from polarity.tune.plan import StudyPlan, new_study, trial_time
from polarity.tune.ray_tune import place_trials
from polarity.tune.runner import Limits, PreparedStudy, check_same_rows, run_study
from polarity.workflows.ablate import prepare, resumed_study, tell
from polarity.workflows.train import require_data
from polarity.yaml_text import Tree, read_yaml_mapping

BASE = "base"
_NUMBERS = {"uniform": 2, "loguniform": 2, "quniform": 3}
_KINDS = (*_NUMBERS, "choice")


@dataclass(frozen=True)
class Range:
    """Where one setting is drawn from; `values` are [low, high], [low, high, step] or the choices."""

    kind: str
    values: tuple[Any, ...]

    def draw(self, rng: np.random.RandomState) -> Any:
        """One value, by Ray Tune's own distributions; a step of whole numbers gives whole numbers."""
        from ray import tune  # slow to import, and a space is checked before anything else

        value = tune.choice(list(self.values)) if self.kind == "choice" else getattr(tune, self.kind)(*self.values)
        drawn = value.sample(random_state=rng)
        if self.kind == "choice":
            return drawn
        whole = self.kind == "quniform" and all(float(v).is_integer() for v in self.values)
        return round(float(drawn)) if whole else float(f"{float(drawn):.6g}")


Space = Mapping[str, Range]


def read_space(path: Path) -> dict[str, Range]:
    """The space of a YAML file. Raises ConfigError naming file and key: unknown setting (with the nearest), kind or values."""
    tree = read_yaml_mapping(path)
    if not tree:
        raise ConfigError(f"{path}: the space is empty; write settings such as optim.lr: {{loguniform: [1.0e-5, 1.0e-4]}}")
    return {key: _range(entry, f"{path}, {key}") for key, entry in _flat(tree) if _known(key, str(path))}


def _flat(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, range); sections may be nested or dotted."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and not (len(value) == 1 and next(iter(value)) in _KINDS) and _is_section(name):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _is_section(name: str) -> bool:
    return any(key.startswith(f"{name}.") for key in _settings()) or name in Config().per_task()


def _settings() -> list[str]:
    return list(leaves(Config().model_dump()))


def _known(key: str, place: str) -> bool:
    """True, or ConfigError. Below a mapping by task, tasks and classes are the configuration's own and are checked with it."""
    known = _settings()
    if key in known or any(key.startswith(f"{name}.") for name in Config().per_task()):
        return True
    raise ConfigError(f"{place}: there is no setting {key!r}; {nearest(key, known)}")


def _range(entry: Any, place: str) -> Range:
    example = "write {loguniform: [low, high]}, {uniform: [low, high]}, {quniform: [low, high, step]} or {choice: [...]}"
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ConfigError(f"{place}: {example}")
    kind, values = next(iter(entry.items()))
    if kind not in _KINDS:
        raise ConfigError(f"{place}: there is no range {kind!r}; {nearest(str(kind), _KINDS)}")
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{place}: {kind} takes a list; {example}")
    if kind in _NUMBERS:
        _check_numbers(kind, values, place)
    return Range(kind, tuple(values))


def _check_numbers(kind: str, values: list[Any], place: str) -> None:
    if len(values) != _NUMBERS[kind] or any(not isinstance(v, int | float) or isinstance(v, bool) for v in values):
        raise ConfigError(f"{place}: {kind} takes {_NUMBERS[kind]} numbers, got {values}")
    if values[0] >= values[1]:
        raise ConfigError(f"{place}: {kind} needs low < high, got {values[0]} and {values[1]}")
    if kind == "loguniform" and values[0] <= 0:
        raise ConfigError(f"{place}: loguniform needs low > 0, got {values[0]}")
    if kind == "quniform" and values[2] <= 0:
        raise ConfigError(f"{place}: quniform needs a step > 0, got {values[2]}")


def search_arms(space: Space, samples: int, seed: int, *, grid: bool = False) -> list[Arm]:
    """The configuration as it is, first, then `samples` random draws (the same for the same seed), or every combination of choices.

    Raises ConfigError where `grid` meets a range that is not a choice.
    """
    if grid:
        endless = [key for key, value in space.items() if value.kind != "choice"]
        if endless:
            raise ConfigError(f"--grid needs choices everywhere; {', '.join(endless)} has none: write {{choice: [...]}}")
        found = [dict(zip(space, values, strict=True)) for values in itertools.product(*(r.values for r in space.values()))]
    else:
        rng = np.random.RandomState(seed)
        found = [{key: drawn.draw(rng) for key, drawn in space.items()} for _ in range(samples)]
    distinct = {json.dumps(sets, sort_keys=True): sets for sets in found}  # coarse spaces repeat themselves
    return [Arm(BASE), *(Arm(f"sample-{number:03d}", sets=sets, reference=BASE) for number, sets in enumerate(distinct.values(), 1))]


BEST_YAML = "best.yaml"
SEARCH = "search"
"""The design of a study that searches."""
PLAN = StudyPlan(seeds=1, keep_ahead=False)


@dataclass(frozen=True)
class Search:
    """A space over a configuration: `samples` random draws, or the whole grid of a space of choices."""

    base: Base
    space: Path
    samples: int = 16
    grid: bool = False


def tune(search: Search, study_dir: str, *, seed: int = 0, limits: Limits | None = None, say: Say = tell) -> Study:
    """Run the search into `study_dir` and write best.yaml. Raises ConfigError naming the draw that does not make a configuration."""
    arms, configs = _checked(search, seed)
    folder = open_study_folder(study_dir, resume=False)
    prepared, command = prepare(configs, "validation", folder, say), "polarity " + " ".join(sys.argv[1:])
    study = new_study(folder, PLAN, arms, prepared, design=SEARCH, level="samples", command=command)
    study.file.seeds.confirm = []  # the search ranks by the inner rows; nothing is confirmed
    study.save()
    return _run_and_conclude(study, prepared, limits or Limits(), say)


def _checked(search: Search, seed: int) -> tuple[list[Arm], dict[str, Config]]:
    """The configurations to compare, the given one first, by the names of their arms."""
    if search.samples < 1:
        raise ConfigError(f"--samples must be at least 1 (got {search.samples})")
    arms = search_arms(read_space(search.space), search.samples, seed, grid=search.grid)
    configs = {arm.name: arm_config(search.base, arm) for arm in arms}
    require_data(configs[BASE])
    check_same_rows(configs, BASE)
    require_encoders(configs.values())
    return arms, configs


def dry_run(search: Search, *, seed: int = 0, concurrent: int | None = None, say: Say = tell) -> str:
    """Check everything, then the plan in words: each configuration, ASHA's rungs, and a time from a few timed batches of the given one."""
    arms, configs = _checked(search, seed)
    prepared = prepare(configs, "validation", None, say)
    asha = PLAN.asha(prepared.configs)
    beside = place_trials(prepared.configs[BASE].cluster, max_concurrent=concurrent).concurrent
    seconds = trial_time(prepared, BASE)[0] * len(arms) / beside
    rungs = "" if asha is None else f"; at {', '.join(f'{rung:.0%}' for rung in asha.rungs)} of its epochs a trial may be stopped"
    lines = [f"{len(arms)} trials, {beside} at a time{rungs}"]
    lines += [line for arm in arms for line in tables.wrapped(f"{arm.name}: {described(arm)}", first="  ", later="    ")]
    return "\n".join([*lines, f"time: about {clock(seconds)} if no trial is stopped, on machines like this one"])


def resume(study_dir: str, *, limits: Limits | None = None, retry_failed: bool = False, say: Say = tell) -> Study:
    """Go on with a search from its own record. Raises RunError as `resumed_study`."""
    study, prepared = resumed_study(study_dir, "tune", retry_failed=retry_failed, say=say)
    return _run_and_conclude(study, prepared, limits or Limits(), say)


def _run_and_conclude(study: Study, prepared: PreparedStudy, limits: Limits, say: Say) -> Study:
    configs = prepared.configs
    reason = run_study(study, prepared, limits, say)
    best = best_trial(study)
    config = configs[best.arm]
    study.folder.write_text(BEST_YAML, dump_config(config))
    score = overall_score(effect_predictions(study, best), config.labels)
    arm = next(arm for arm in study.arms if arm.name == best.arm)
    study.file.best = Best(arm=best.arm, sets=dict(arm.sets), inner_overall=best.overall or 0.0, overall=score)
    study.file.savings = savings(study, {name: c.train.epochs for name, c in configs.items()})
    study.save()
    rows = study.file.data.rows["test"]
    say(ranking(study))
    say(
        f"best: {best.arm} {described(arm)}: overall macro-F1 {score:.4f} on {rows:,} rows that chose nothing "
        f"({best.overall:.4f} on the inner validation rows that chose it, which flatters it)"
    )
    for line in missing(study, reason):
        say(line)
    say(f"written: {study.folder.uri.rstrip('/')}/{BEST_YAML}; train it with polarity train {study.folder.uri.rstrip('/')}/{BEST_YAML}")
    return study


def best_trial(study: Study) -> TrialRecord:
    """The finished trial with the best inner validation score; a stopped one is never compared with it. RunError where none finished."""
    finished = study.of("explore", "finished")
    if not finished:
        raise RunError("no trial of the search ran to its end, so there is no best one: give it more --budget, or see the errors above")
    return max(finished, key=lambda trial: trial.overall or 0.0)


def ranking(study: Study) -> str:
    """The ten best finished trials, a line each."""
    arms = {arm.name: arm for arm in study.arms}
    finished = sorted(study.of("explore", "finished"), key=lambda trial: -(trial.overall or 0.0))
    lines = [f"{trial.overall:.4f}  {trial.arm}  {described(arms[trial.arm])}" for trial in finished[:10]]
    stopped = len(study.of("explore", "stopped"))
    return "\n".join(["inner validation macro-F1 of the trials that ran to their end:", *lines, f"stopped by ASHA: {stopped}"])


def described(arm: Arm) -> str:
    """The drawn settings in one line."""
    return ", ".join(f"{key}={value}" for key, value in arm.sets.items()) or "(the configuration as it is)"
