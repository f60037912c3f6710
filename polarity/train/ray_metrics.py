"""A run as Ray metrics: every node of a cluster serves them to Prometheus as `ray_polarity_...`; cluster/monitoring shows them.

Ray takes a gauge's value along once, with its next export (every ten seconds), and then forgets it, so that a series would vanish between
two logged steps or epochs. A thread therefore sets every gauge again each second until the run ends. A worker that ends takes with it
what was not exported; so it leaves its gauges' last values to its driver, which lives on while the run is judged.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
from ray.util.metrics import Counter, Gauge

from polarity.config import Config
from polarity.data.oversample import sampling_plan
from polarity.train.control import HistoryRow, Job

PREFIX = "polarity_"
"""Of our metrics' names; Ray puts its own `ray_` in front."""

RUN_TAGS = ("run", "study", "arm", "seed")
"""On every metric; `study` and `arm` are empty for a run that is no trial."""

REPEAT_S = 1.0


class Of(NamedTuple):
    """A gauge: the key of the history's row that sets it, of which kind of rows ("": of both), its help, and its tags beside the run's."""

    key: str
    kind: Literal["step", "epoch", ""]
    help: str
    tags: tuple[str, ...] = ()


GAUGES = {
    "loss": Of("loss", "step", "Training loss of the last logged step, all its parts together."),
    "task_loss": Of("loss_{task}", "step", "Classification loss of a task in the last logged step.", ("task",)),
    "consistency_loss": Of(
        "consistency_{task}", "step", "R-Drop's consistency loss of a task in the last logged step, weighted.", ("task",)
    ),
    "learning_rate": Of("lr", "step", "Learning rate of the schedule; with layer-wise rates a layer has a part of it."),
    "gradient_norm": Of("grad_norm", "step", "Norm of the gradient before clipping."),
    "rows_per_second": Of("rows_per_s", "step", "Training rows (after oversampling) a second, all workers together."),
    "tokens_per_second": Of("tokens_per_s", "step", "Real tokens a second, all workers together."),
    "mfu_ratio": Of(
        "mfu", "step", "Model FLOPs utilisation: arithmetic of the real tokens over what the workers' matrix products reach, measured."
    ),
    "padded_ratio": Of("padded_share", "step", "Share of the computed tokens that are padding."),
    "oversampling_ratio": Of("", "", "Rows of an epoch after oversampling over rows of the training part."),
    "epoch": Of("epoch", "", "The epoch that is trained or was the last to end, from 1."),
    "epochs_left": Of("epochs_left", "", "Epochs until the schedule ends, the rest of the current one as a fraction."),
    "step": Of("step", "", "Optimizer steps since the run began, those before a resume included."),
    "epoch_loss": Of("loss", "epoch", "Mean training loss of the last epoch."),
    "epoch_seconds": Of("seconds", "epoch", "Training time of the last epoch."),
    "validation_seconds": Of("validation_seconds", "epoch", "Time of the last validation."),
    "validation_macro_f1": Of("validation_overall", "epoch", "Macro-F1 on the validation rows, the tasks' mean."),
    "validation_task_macro_f1": Of("validation_{task}", "epoch", "Macro-F1 of a task on the validation rows.", ("task",)),
    "validation_class_f1": Of("f1/{task}/{class}", "epoch", "F1 of a class on the validation rows.", ("task", "class")),
}

COUNTERS: dict[str, str] = {
    "steps_total": "Optimizer steps that these workers took or skipped.",
    "bad_steps_total": "Steps that were skipped because loss or gradient were not finite.",
}

Sample = tuple[str, Mapping[str, str], float]
"""A gauge's name, its tags beside the run's, and its value."""
Held = tuple[str, tuple[tuple[str, str], ...]]
"""A gauge's name and its tags beside the run's."""
LastValues = tuple[dict[str, str], dict[Held, float]]
"""A run's tags and its gauges; plain, so that it travels to processes without torch."""


def oversampling_ratio(train: pa.Table, config: Config) -> float:
    """Rows of an epoch over rows of the table: exact where oversampling is stratified, else expected."""
    plan = sampling_plan(train, config.labels, config.data.oversample)[1]
    drawn = plan.counts.sum() if config.data.oversample.stratified else plan.expected @ plan.sizes
    return float(drawn / train.num_rows)


def run_tags(job: Job) -> dict[str, str]:
    """The tags of a run that is no trial: its folder's name and its seed."""
    place = job.run_dir.partition("?")[0] if "://" in job.run_dir else job.run_dir
    return {"run": place.rstrip("/").rpartition("/")[2], "study": "", "arm": "", "seed": str(job.config.train.seed)}


def samples(record: HistoryRow, labels: Mapping[str, list[str]]) -> Iterator[Sample]:
    """The gauges that a row of the history sets; what the row lacks is left as it was."""
    of_tags: dict[tuple[str, ...], list[dict[str, str]]] = {
        (): [{}],
        ("task",): [{"task": task} for task in labels],
        ("task", "class"): [{"task": task, "class": name} for task, classes in labels.items() for name in classes],
    }
    for name, gauge in GAUGES.items():
        for tags in of_tags[gauge.tags] if gauge.kind in ("", record["kind"]) else ():
            value = record.get(gauge.key.format(**tags))
            if value is not None:
                yield name, tags, float(value)


def publish(tags: Mapping[str, str], held: Mapping[Held, float]) -> None:
    """Set a run's gauges, once."""
    gauges = _gauges()
    for (name, more), value in held.items():
        gauges[name].set(value, {**tags, **dict(more)})


def _gauges() -> dict[str, Gauge]:
    return {name: Gauge(PREFIX + name, gauge.help, (*RUN_TAGS, *gauge.tags)) for name, gauge in GAUGES.items()}


class RayMetrics:
    """A tracker that publishes what it is shown, under `tags` (see `RUN_TAGS`); from `start` to `close` a gauge keeps its last value.

    `labels` are the classes of each task, `oversampling` gives rows of an epoch over rows. `step` and `bad_steps` are where the run stood
    when these workers took it over: counters count what they did themselves.
    """

    def __init__(
        self,
        tags: Mapping[str, str],
        labels: Mapping[str, list[str]],
        oversampling: Callable[[], float],
        *,
        step: int = 0,
        bad_steps: int = 0,
    ) -> None:
        self._tags, self._labels, self._oversampling = dict(tags), labels, oversampling
        self._counted = {"steps_total": step, "bad_steps_total": bad_steps}
        self._held: dict[Held, float] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="ray-metrics", daemon=True)

    def start(self) -> "RayMetrics":
        """Begin to publish."""
        self._gauges = _gauges()
        self._counters = {name: Counter(PREFIX + name, text, RUN_TAGS) for name, text in COUNTERS.items()}
        self._hold("oversampling_ratio", {}, self._oversampling())
        self._thread.start()
        return self

    def close(self, finished: bool) -> None:
        """Stop: Ray forgets the gauges soon."""
        self._ended.set()
        self._thread.join()

    def log(self, record: HistoryRow, at: float) -> None:
        """Publish a row of the history."""
        for name, tags, value in samples(record, self._labels):
            self._hold(name, tags, value)
        self._publish()
        self._count("steps_total", record.get("step"))
        self._count("bad_steps_total", record.get("bad_steps"))

    def last_values(self) -> LastValues:
        """All gauges as they stand, for `publish`."""
        with self._lock:
            return self._tags, dict(self._held)

    def _hold(self, name: str, tags: Mapping[str, str], value: float) -> None:
        with self._lock:
            self._held[name, tuple(tags.items())] = value

    def _count(self, name: str, stands_at: float | str | None) -> None:
        more = 0 if stands_at is None else int(stands_at) - self._counted[name]
        if more > 0:  # Ray's counters refuse to be raised by nothing
            self._counters[name].inc(more, self._tags)
            self._counted[name] += more

    def _publish(self) -> None:
        with self._lock:
            for (name, tags), value in self._held.items():
                self._gauges[name].set(value, {**self._tags, **dict(tags)})

    def _repeat(self) -> None:
        self._publish()
        while not self._ended.wait(REPEAT_S):
            self._publish()


def metrics_of(job: Job, tags: Mapping[str, str] | None, resume: Path | None) -> RayMetrics:
    """The metrics of a run that is about to start on Ray, from the checkpoint folder `resume` or anew."""
    step, bad_steps = _stood_at(resume)
    oversampling = partial(oversampling_ratio, job.tables()["train"], job.config)
    return RayMetrics(tags or run_tags(job), job.config.labels, oversampling, step=step, bad_steps=bad_steps)


def _stood_at(resume: Path | None) -> tuple[int, int]:
    """Steps and bad steps before this start."""
    if resume is None:
        return 0, 0
    try:
        state = json.loads((resume / "state.json").read_text())
        return int(state["step"]), int(state["bad_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0  # the loop is about to read it as well, and refuses it in its own words
