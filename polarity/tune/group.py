"""A trial on several workers: a process of Ray Tune that starts a group of Ray Train and passes its reports on."""

from collections.abc import Mapping
from typing import Any

import ray
from ray.tune.integration.ray_train import TuneReportCallback

from polarity.artifacts import RunFolder
from polarity.train.driver import fit
from polarity.train.worker import Job, checkpoint_names
from polarity.tune.trial import TrialSpec, judge_trial


def group_trial(config: dict[str, Any], specs: Mapping[str, TrialSpec], tables: Mapping[str, Any]) -> None:
    """Train on `cluster.workers` workers; Tune hears of each epoch. Where the trial is stopped, this process ends and the group with it.

    A killed study leaves checkpoints in the trial's folder, from which the same trial goes on.
    """
    spec = specs[config["trial"]]
    folder = RunFolder.open(spec.run_dir)
    parts = {name: ray.get(ref) for name, ref in tables[spec.tokens].items()}
    job = Job(spec.config, parts, spec.statistics, spec.run_dir, keep_model=spec.keep_model)
    fit(job, lambda _: None, resume=bool(checkpoint_names(folder)), callbacks=[TuneReportCallback()])
    judge_trial(spec, folder)
