"""The ten points and four tiers of the plan, as pure functions Config -> Config, with the gains that the plan claims.

A point is a table of settings (the plan's `new` values). Values for a task or class that the configuration does not have are
left out, so a point does on other tasks what it can. Points touch disjoint settings, so their order does not matter, with one
exception: 3 and 9 both set `optim.schedule`. In number order 9 replaces the schedule of 3 and keeps its floor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue, ValidationError

from polarity.config import Config, PerTask
from polarity.errors import ConfigError

Settings = Mapping[str, JsonValue]
"""{dotted key: value}; a dict value is merged into the mapping there."""


@dataclass(frozen=True)
class Point:
    """One point: `claim` is the plan's own, in macro-F1 points (low, high); `source` the paper of the technique.

    `where_unset` holds the plan's values that a feature of the point needs and a configuration other than the baseline may lack.
    """

    number: int
    title: str
    tier: int
    claim: tuple[float, float]
    source: str
    settings: Settings
    where_unset: Settings = field(default_factory=dict)

    def values(self, config: Config) -> Settings:
        """The settings that this point makes on `config`, for its tasks and classes only."""
        return self.values_for(config.labels, config.per_task())

    def values_for(self, labels: Mapping[str, list[str]], per_task: Mapping[str, PerTask]) -> Settings:
        """As `values`, from {task: classes} and {path: {task: value}} of a configuration that need not be whole yet."""
        chosen: dict[str, JsonValue] = {}
        for key, value in self.settings.items():
            chosen[key] = _for_tasks(value, labels) if key in _PER_TASK else value
        for key, value in self.where_unset.items():
            current = per_task[key]
            chosen[key] = {task: new for task, new in _for_tasks(value, labels).items() if not current.get(task)}
        return {key: value for key, value in chosen.items() if value != {}}

    def apply(self, config: Config) -> Config:
        """`config` with this point on. Raises pydantic's ValidationError where another setting contradicts it."""
        return with_settings(config, self.values(config))


@dataclass(frozen=True)
class Tier:
    number: int
    title: str
    claim: tuple[float, float]
    points: tuple[int, ...]


@dataclass(frozen=True)
class Phase:
    """A step of the ladder: `points` are all that are on; `claim` is the overall macro-F1 in percent that the plan expects."""

    title: str
    points: tuple[int, ...]
    claim: tuple[float, float] | None


_PER_TASK = frozenset(Config().per_task())


def _for_tasks(value: JsonValue, labels: Mapping[str, list[str]]) -> dict[str, JsonValue]:
    """The part of a per-task mapping whose tasks, and classes where it has them, exist."""
    assert isinstance(value, dict)
    known: dict[str, JsonValue] = {}
    for task, inner in value.items():
        if task not in labels:
            continue
        part: JsonValue = {name: x for name, x in inner.items() if name in labels[task]} if isinstance(inner, dict) else inner
        if part != {}:
            known[task] = part
    return known


def with_settings(config: Config, settings: Settings) -> Config:
    """`config` with dotted settings, checked anew; dict values are merged."""
    tree = config.model_dump()
    for key, value in settings.items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node[section]
        node[leaf] = _merged(node.get(leaf), value)
    return Config.model_validate(tree)


def _merged(old: object, new: object) -> object:
    if isinstance(old, dict) and isinstance(new, Mapping):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return dict(new) if isinstance(new, Mapping) else new


_ALL_POINTS = (
    Point(
        1,
        "class reweighting",
        1,
        (4, 6),
        "inverse class frequency, as scikit-learn's class_weight='balanced'",
        {
            "loss.class_weights.multipliers": {
                "sentiment": {"negative": 1.10, "neutral": 1.80, "positive": 1.30},
                "polarization": {"non_polarized": 1.20, "objective": 2.50, "partisan": 0.95},
            },
            "loss.class_weights.max_weight": 10.0,
        },
    ),
    Point(
        2,
        "oversampling",
        1,
        (3, 4),
        "stratified random oversampling over the joint labels",
        {
            "data.oversample.alpha": 0.70,
            "data.oversample.max_multiplier": 8.0,
            "data.oversample.boosts": {"polarization": {"objective": 6.0}, "sentiment": {"neutral": 2.5}},
            "data.oversample.stratified": True,
        },
    ),
    Point(
        3,
        "longer training",
        1,
        (2, 3),
        "Loshchilov and Hutter 2017 (cosine schedule)",
        {"train.epochs": 12, "train.early_stopping_patience": 6, "optim.schedule": "cosine", "optim.lr_floor": 1e-7},
    ),
    Point(
        4,
        "larger heads",
        2,
        (2, 3),
        "He et al. 2016 (residual connections)",
        {"model.head.hidden_size": 768, "model.head.layers": 3, "model.head.intermediate_size": 1024, "model.head.residual": True},
    ),
    Point(
        5,
        "pooling",
        2,
        (1, 2),
        "Yang et al. 2016 (attention pooling)",
        {"model.pooling": "attention", "model.concat_cls": True, "model.concat_mean": True},
    ),
    Point(
        6,
        "focal loss",
        3,
        (1, 2),
        "Lin et al. 2017; adaptive gamma: compare Li et al. 2022",
        {"loss.focal_gamma": {"sentiment": 2.0, "polarization": 2.5}, "loss.adaptive_gamma": True},
    ),
    Point(
        7,
        "regularization",
        3,
        (1, 2),
        "Liang et al. 2021 (R-Drop); Zhang et al. 2018 (mixup); after Zhong et al. 2021 (label-aware smoothing)",
        {
            "loss.r_drop_alpha": 0.6,
            "loss.r_drop_warmup_epochs": 2,
            "loss.mixup_alpha": 0.2,
            "loss.adaptive_smoothing": True,
            "optim.weight_decay": 0.03,
        },
        # Adaptive smoothing distributes a smoothing that is there; without one it would do nothing.
        {"loss.label_smoothing": {"sentiment": 0.08, "polarization": 0.05}},
    ),
    Point(
        8,
        "multi-sample dropout",
        3,
        (1, 1),
        "Inoue 2019",
        {"model.multi_sample.samples": 3, "model.multi_sample.inference": "vote", "model.multi_sample.inference_samples": 3},
    ),
    Point(
        9,
        "learning rate",
        4,
        (0.5, 1),
        "Loshchilov and Hutter 2017 (warm restarts)",
        {"optim.lr": 2.5e-5, "optim.warmup_ratio": 0.20, "optim.schedule": "cosine_restarts", "optim.cycles": 2},
    ),
    Point(
        10,
        "gradients",
        4,
        (0.5, 1),
        "Yong et al. 2020 (gradient centralization)",
        {"train.micro_batch_size": 16, "train.global_batch_size": 48, "optim.max_grad_norm": 0.5, "optim.gradient_centralization": True},
    ),
)

POINTS: dict[int, Point] = {point.number: point for point in _ALL_POINTS}
ALL_POINTS: tuple[int, ...] = tuple(POINTS)

TIERS: dict[int, Tier] = {
    1: Tier(1, "critical", (8, 10), (1, 2, 3)),
    2: Tier(2, "architecture", (3, 5), (4, 5)),
    3: Tier(3, "advanced", (2, 4), (6, 7, 8)),
    4: Tier(4, "training", (1, 2), (9, 10)),
}

PHASES: tuple[Phase, ...] = (
    Phase("baseline", (), None),
    Phase("points 1-3", (1, 2, 3), (68, 70)),
    Phase("plus 4-5", (1, 2, 3, 4, 5), (72, 74)),
    Phase("plus 6-7", (1, 2, 3, 4, 5, 6, 7), (75, 78)),
    Phase("all ten", ALL_POINTS, None),
)

CLAIMS_NOTE = (
    "These are the plan's own claims, in macro-F1 points, and they do not add up: its points sum to 16-25, its tiers to 14-21, "
    "and its training-time items to 81-85 minutes against the 55-70 it states."
)


def apply_points(config: Config, numbers: Iterable[int]) -> Config:
    """`config` with these points on, in number order. Raises ConfigError for a number that is no point."""
    for number in check_points(numbers):
        config = POINTS[number].apply(config)
    return config


def points_on(config: Config) -> tuple[int, ...]:
    """The points whose values `config` has, all of them; a point whose value a later point replaced counts where that one is on."""
    on: list[int] = []
    for number in reversed(ALL_POINTS):
        if _unchanged_by(config, [number, *on]):
            on.append(number)
    return tuple(sorted(on))


def _unchanged_by(config: Config, numbers: Iterable[int]) -> bool:
    try:
        return apply_points(config, numbers) == config
    except ValidationError:  # a setting contradicts the points, so it is none of theirs
        return False


def check_points(numbers: Iterable[int]) -> tuple[int, ...]:
    """The numbers sorted, each once."""
    return _checked(numbers, POINTS, "point")


def points_of_tiers(numbers: Iterable[int]) -> tuple[int, ...]:
    """The points of these tiers, sorted."""
    return tuple(point for tier in _checked(numbers, TIERS, "tier") for point in TIERS[tier].points)


def _checked(numbers: Iterable[int], known: Mapping[int, object], noun: str) -> tuple[int, ...]:
    chosen = tuple(sorted(set(numbers)))
    for number in chosen:
        if number not in known:
            raise ConfigError(f"there is no {noun} {number}: {noun}s are 1 to {max(known)}")
    return chosen
