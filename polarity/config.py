"""The configuration: one typed tree. Every field is followed by a line that says what it trades.

Presets, files and options are merged in `resolve.py`; here stand only the fields, their defaults (those of the plan's
baseline, see `presets/baseline.yaml`) and the checks that a value makes sense by itself and beside the others.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from polarity.spelling import MISSING_WORDS, canonical, lookup

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


PerTask = Mapping[str, float | Mapping[str, float]]
"""{task: value} or {task: {class: value}}."""


class ConfigSection(BaseModel):
    """A part of the tree: unknown keys are errors, values are fixed once built."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class TrackingConfig(ConfigSection):
    """Where a run's curves are shown besides its own files; nothing here changes a number of the run."""

    tensorboard: bool = True
    """Write event files into the run folder, for `tensorboard --logdir runs`."""
    mlflow: str | None = None
    """MLflow's tracking URI, such as http://host:5000 or sqlite:///mlflow.db; null: off. Needs the extra `mlflow`. User and password
    go into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, not into the URI."""
    mlflow_experiment: str = Field(default="polarity", min_length=1)
    """MLflow's experiment; it is made where there is none."""
    wandb: str | None = Field(default=None, pattern=r"^[^/\\#?%:]+$")
    """Project of Weights & Biases; null: off. Needs the extra `wandb`; WANDB_API_KEY, WANDB_ENTITY and WANDB_MODE=offline are heeded."""

    @model_validator(mode="after")
    def _no_secrets(self) -> "TrackingConfig":
        parts = urlsplit(self.mlflow or "")
        if parts.password is not None or (parts.scheme in ("http", "https") and parts.username is not None):
            raise ValueError(
                "tracking.mlflow holds a user or password, and a run's config.yaml is no place for secrets: leave them out of the URI and "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (for a database directly, what its own client reads)"
            )
        return self


MIN_COMMENT_TOKENS = 32

_OUR_COLUMNS = frozenset(["row_id", "title", "comment", "split", "length", "input_ids", "token_type_ids", "multiplicity", "overall"])
# A head stands in torch's ModuleDict under its task's name, which refuses the names of its own methods.
_TORCHS_WORDS = frozenset({
    "apply", "buffers", "children", "clear", "compile", "cpu", "cuda", "double", "eval", "float", "forward", "half", "ipu", "items", "keys",
    "modules", "mtia", "parameters", "pop", "to", "train", "training", "type", "update", "values", "xpu",
})  # fmt: skip


MOST_LABELS = 127
"""Classes of a task: their indices are kept in one byte a row."""


class TaskConfig(ConfigSection):
    column: str = Field(min_length=1)
    """Column of the input that holds this task's label; with `annotators` or `counts` it is not read."""
    labels: list[str] = Field(min_length=2)
    """The classes in their fixed order; labels match whatever their case, spaces, invisible characters and way of writing a number."""

    annotators: list[str] = Field(default=[])
    """Columns of several annotators, each with a label or nothing a row: the majority is the label, a tie is none."""
    counts: list[str] = Field(default=[])
    """Or a count table: a column a class, in the order of `labels`, with how many annotators chose it."""
    soft: bool = False
    """With several annotators: whether the loss aims at the shares of their votes, ties included, and not at the majority."""

    @property
    def columns(self) -> list[str]:
        """The columns of the input that hold this task's labels or votes."""
        return self.annotators or self.counts or [self.column]

    @model_validator(mode="before")
    @classmethod
    def _column_of_several(cls, given: Any) -> Any:
        """The names of several columns stand as one in messages."""
        several = (given.get("annotators") or given.get("counts")) if isinstance(given, dict) else None
        return {**given, "column": ", ".join(map(str, several))} if isinstance(several, list) and several else given

    @model_validator(mode="after")
    def _several_annotators(self) -> "TaskConfig":
        if self.annotators and self.counts:
            raise ValueError("give annotators (a column an annotator) or counts (a column a class), not both")
        if len(self.annotators) == 1:
            raise ValueError("annotators must name at least 2 columns: give the only one as column")
        if self.counts and len(self.counts) != len(self.labels):
            raise ValueError(f"counts must name a column for each of the {len(self.labels)} labels, in their order")
        if self.soft and not (self.annotators or self.counts):
            raise ValueError("soft needs several annotators: name their columns in annotators, or a count table's in counts")
        return self

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> "TaskConfig":
        if len(self.labels) > MOST_LABELS:
            raise ValueError(f"{len(self.labels)} labels are too many: a task has at most {MOST_LABELS}")
        if len(lookup(self.labels)) != len(self.labels):
            raise ValueError(f"labels must differ: {self.labels}")
        if "" in map(canonical, self.labels):
            raise ValueError(f"labels must hold a visible character: {self.labels}")
        return self


class SplitConfig(ConfigSection):
    """How one source is cut into train, validation and test; unused when `data.train` and `data.validation` are given."""

    kind: Literal["plan", "joint", "group", "column"] = "plan"
    """plan: scikit-learn's train_test_split twice, stratified by `stratify`; joint: stratified on all labels together; group:
    no title on two sides (harder, and closer to comments on tomorrow's news); column: the file says."""
    seed: int = 42
    """Seed of the split alone; the run's seed never moves a row."""
    validation: Fraction = 0.15
    """Share of the rows that choose the best epoch."""
    test: Fraction = 0.15
    """Share of the rows that decide nothing."""
    stratify: str = "sentiment"
    """Task whose label the plan's split is stratified by."""
    folds: Count = 0
    """0: one split by the shares above; k >= 3: k folds, of which `fold` is the test part and the next one validation."""
    fold: Count = 0
    """Which of the `folds` is the test part, from 0."""
    column: str = "split"
    """Column that says train, validation or test, for kind: column."""

    @model_validator(mode="after")
    def _consistent(self) -> "SplitConfig":
        if self.validation <= 0:
            raise ValueError("data.split.validation must be above 0: the best epoch is chosen on these rows")
        if self.validation + self.test >= 1:
            raise ValueError(f"data.split.validation + data.split.test must leave rows to train on (got {self.validation + self.test:g})")
        if self.folds and self.kind not in ("joint", "group"):
            raise ValueError(f"data.split.folds needs data.split.kind joint or group, not {self.kind}")
        if self.folds in (1, 2):
            raise ValueError("data.split.folds must be 0 (off) or at least 3: one fold tests, one validates, the rest train")
        if self.fold and self.fold >= self.folds:
            raise ValueError(f"data.split.fold must be below data.split.folds ({self.folds}), got {self.fold}")
        return self


class OversampleConfig(ConfigSection):
    """Stratified oversampling (point 2): strata are the observed label combinations."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """0 keeps the data's proportions, 1 lifts every stratum to the median size (up to the cap)."""
    max_multiplier: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0
    """Cap on how often a row appears in one epoch: more repeats, more overfitting to few comments."""
    boosts: dict[str, dict[str, Positive]] = Field(default={})
    """{task: {class: factor}}: strata with that label are multiplied further, up to the cap."""
    stratified: bool = False
    """Whether each stratum gets exactly its expected count; off, every row draws its own extra copy."""
    size: Literal["grow", "keep"] = "grow"
    """grow: an epoch has more rows; keep: counts are rescaled so that an epoch costs as much as without oversampling."""


class DataConfig(ConfigSection):
    source: str | None = None
    """One labelled source, cut by `split`: a .csv, .parquet, .jsonl or .json file, a folder of .parquet files or one saved by `datasets`,
    `hf:NAME` or `hf:NAME@SPLIT` from the hub, or `sample` / `sample:ROWS`, the synthetic corpus."""
    train: str | None = None
    """Training rows, when you bring your own split (then `validation` is needed too and `source` is not)."""
    validation: str | None = None
    """Validation rows: they choose the best epoch, and nothing else."""
    test: str | None = None
    """Test rows: they decide nothing. Optional."""
    title_column: str | None = "Title"
    """Column of the post that is answered; null trains on the comment alone."""
    comment_column: str = Field(default="Comment", min_length=1)
    """Column of the comment."""
    id_column: str | None = "row_id"
    """Column that identifies a row. Where the default one is not in the file, rows are numbered; null always numbers."""
    tasks: dict[str, TaskConfig] = Field(
        default={
            "sentiment": TaskConfig(column="Final Sentiment", labels=["negative", "neutral", "positive"]),
            "polarization": TaskConfig(column="Final Polarization", labels=["non_polarized", "objective", "partisan"]),
        },
        min_length=1,
    )
    """{task: {column, labels}}: a third task is an entry more; `TASK: null` removes one."""
    missing_labels: list[str] = Field(default=list(MISSING_WORDS))
    """Texts of a label cell that mean "no label", as an empty cell does, unless a class has that name; by default pandas' words."""
    bad_rows: Literal["error", "drop"] = "error"
    """error: the first bad row stops the run; drop: bad rows are left out, counted and shown; one with a good label of another task
    keeps that and loses the bad label only."""
    split: SplitConfig = SplitConfig()
    duplicates: Literal["drop_from_train", "error", "allow"] = "drop_from_train"
    """What happens to training rows whose (near) duplicate is in validation or test; allow keeps the leak, for comparison."""
    order: Literal["title_first", "comment_first"] = "title_first"
    """Which text comes first; what comes last is what `max_length` cuts, but the comment keeps at least 32 tokens."""
    max_length: Annotated[int, Field(ge=MIN_COMMENT_TOKENS + 8)] = 224
    """Tokens of a row, special tokens included: longer costs time, shorter loses text."""
    max_comment: PositiveInt | None = None
    """Most tokens of a comment; null: whatever `max_length` leaves."""
    max_title: Count | None = None
    """Most tokens of a title; titles repeat and are most of a row's tokens, so a short title is much faster."""
    shards: Literal["auto", "always", "never"] = "auto"
    """Whether rows and tokens are prepared as files once, which workers map into memory; auto: of more than 32 MB, and of `s3://`."""
    shard_dir: str | None = None
    """Folder or URI of these files, seen by every node; null: the user's cache. They take about the size of texts and tokens."""
    oversample: OversampleConfig = OversampleConfig()

    @property
    def sources(self) -> list[str]:
        """Where rows come from: the one source, or one's own parts."""
        return [name for name in (self.source, self.train, self.validation, self.test) if name]

    @property
    def labels(self) -> dict[str, list[str]]:
        """{task: classes in order}."""
        return {name: task.labels for name, task in self.tasks.items()}

    @model_validator(mode="after")
    def _consistent(self) -> "DataConfig":
        own = [name for name in ("train", "validation", "test") if getattr(self, name)]
        if self.source and own:
            raise ValueError(f"give either data.source (--data) or data.{own[0]}, not both")
        if own and not (self.train and self.validation):
            missing = "validation" if self.train else "train"
            raise ValueError(f"data.{own[0]} is given but data.{missing} is not: your own split needs both train and validation")
        if self.max_comment is not None and self.max_comment < MIN_COMMENT_TOKENS:
            raise ValueError(f"data.max_comment must be at least {MIN_COMMENT_TOKENS}, which every comment keeps (got {self.max_comment})")
        if self.split.stratify not in self.tasks and self.split.kind == "plan":
            raise ValueError(f"data.split.stratify names the task {self.split.stratify!r}; tasks: {', '.join(self.tasks)}")
        for name in self.tasks:
            if not name.isidentifier():
                raise ValueError(f"data.tasks: the name {name!r} must be letters, digits and underscores")
            if name.startswith("_") or name in _OUR_COLUMNS | _TORCHS_WORDS:
                raise ValueError(f"data.tasks: the name {name!r} is taken, by polarity's own tables or by torch: give the task another")
        columns = [column for task in self.tasks.values() for column in task.columns]
        texts = [c for c in (self.title_column, self.comment_column) if c]
        for column in [*columns, *texts]:
            if (columns + texts).count(column) > 1:
                raise ValueError(f"the column {column!r} is named twice among data.tasks, data.title_column and data.comment_column")
        return self


class HeadConfig(ConfigSection):
    """A task's classification head: blocks of LayerNorm, Linear, GELU, dropout, then a linear layer to the logits."""

    layers: Count = 2
    """Blocks before the last linear layer; 0 is a linear head, the safest choice on few rows."""
    hidden_size: PositiveInt = 384
    """Width of a block."""
    intermediate_size: PositiveInt | None = None
    """Width inside a block, with a second Linear back to `hidden_size`; null: one Linear a block."""
    residual: bool = False
    """Skip connection around each block (a projection where widths differ)."""


# In `inference` below: YAML reads a bare off as false.
class MultiSampleConfig(ConfigSection):
    """Multi-sample dropout (point 8, Inoue 2019): several dropout masks over one encoder pass."""

    samples: Count = 0
    """Masks a row in training, their losses averaged; 0 is off. The encoder runs once whatever the number."""
    inference: Annotated[Literal["off", "mean", "vote"], BeforeValidator(lambda given: "off" if given is False else given)] = "off"
    """off: one pass without dropout; mean of the samples' probabilities; vote: majority, ties to the larger mean."""
    inference_samples: PositiveInt = 3
    """Masks a row in prediction, seeded by the row's text."""


class ModelConfig(ConfigSection):
    encoder: str = "bert-base-multilingual-cased"
    """A Hugging Face encoder: a hub name, a folder, or `offline:minilm`, the English MiniLM of the `offline` extra."""
    revision: str | None = None
    """Commit or tag of the hub encoder; null takes the newest and records which one it was."""
    dropout: Fraction = 0.2
    """Dropout in the heads; the encoder keeps its own."""
    pooling: Literal["last4_mean", "attention", "cls", "mean"] = "last4_mean"
    """How token states become one vector, shared by the tasks."""
    concat_cls: bool = False
    """Append the first token's state (width + d)."""
    concat_mean: bool = False
    """Append the masked mean of the last layer (width + d)."""
    frozen_layers: Count = 0
    """0 trains all; k: the embeddings and the k lowest encoder layers are not trained, their output (without dropout) for every row is
    computed once and kept in memory, and a step costs only the layers above: much cheaper, and usually somewhat worse."""
    head: HeadConfig = HeadConfig()
    multi_sample: MultiSampleConfig = MultiSampleConfig()


class ClassWeightConfig(ConfigSection):
    """w_c = clip(m_c (N / (K n_c))^strength, 0.1, max_weight), as scikit-learn's `balanced` where m and strength are 1."""

    multipliers: dict[str, dict[str, Positive]] = Field(default={})
    """{task: {class: m}}; a class that is not named has 1."""
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    """1: full inverse frequency; 0.5: its square root, milder on small classes; 0: no correction by frequency."""
    max_weight: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = 6.0
    """Cap on a weight: above it single rows begin to steer the step."""
    basis: Literal["raw", "resampled"] = "raw"
    """Rows counted before resampling (the plan; corrects twice) or after it."""


class LossConfig(ConfigSection):
    task_weights: dict[str, NonNegative] = Field(default={})
    """{task: weight} of the tasks' sum; a task that is not named has 1."""
    class_weights: ClassWeightConfig = ClassWeightConfig()
    focal_gamma: dict[str, NonNegative] = Field(default={})
    """{task: gamma} of (1 - p)^gamma (point 6, Lin et al. 2017); 0 is cross-entropy."""
    adaptive_gamma: bool = False
    """Gamma per class from the last epoch's mean p: harder classes get a larger one, at an unchanged mean factor."""
    label_smoothing: dict[str, Fraction] = Field(default={})
    """{task: epsilon} (Szegedy et al. 2016)."""
    adaptive_smoothing: bool = False
    """Epsilon grows with a class's count, the rarest gets none (after Zhong et al. 2021)."""
    r_drop_alpha: NonNegative = 0.0
    """Weight of the consistency of two dropout passes (point 7, Liang et al. 2021); above 0 a step costs two passes."""
    r_drop_warmup_epochs: Count = 0
    """Epochs without R-Drop (one pass), then as many in which alpha rises; it says nothing where alpha is 0, so that alpha alone is its
    switch."""
    mixup_alpha: NonNegative = 0.0
    """lambda ~ Beta(alpha, alpha) mixes pooled rows and their losses (Zhang et al. 2018); 0 is off."""
    logit_adjustment: NonNegative = 0.0
    """tau of logits + tau log(sampled prior) in the loss (Menon et al. 2021); an alternative to class weights."""


class OptimConfig(ConfigSection):
    """AdamW with layer-wise learning rates; biases and norms are not decayed."""

    lr: Positive = 1.5e-5
    """Peak learning rate of the top encoder layer."""
    lr_floor: NonNegative = 0.0
    """Where the schedule ends, for a multiplier of 1."""
    schedule: Literal["linear", "cosine", "cosine_restarts"] = "linear"
    """Shape after warm-up; restarts return to the peak `cycles` - 1 times."""
    cycles: PositiveInt = 2
    """Cosine cycles of cosine_restarts."""
    warmup_ratio: Fraction = 0.1
    """Share of all steps in which the rate rises."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Each layer below the top learns this much slower."""
    head_lr_multiplier: Positive = 2.0
    """Learning rate of pooling and heads, in multiples of the peak."""
    weight_decay: NonNegative = 0.02
    """AdamW's decoupled decay."""
    max_grad_norm: Positive = 1.0
    """Clip the global gradient norm here."""
    gradient_centralization: bool = False
    """Subtract each weight's mean gradient after clipping (point 10, Yong et al. 2020)."""

    @model_validator(mode="after")
    def _floor_below_peak(self) -> "OptimConfig":
        if self.lr_floor > self.lr:
            raise ValueError(f"optim.lr_floor ({self.lr_floor:g}) is above optim.lr ({self.lr:g})")
        return self


class TrainConfig(ConfigSection):
    seed: int = 0
    """Weights of the heads, order, dropout, mixup. The split has its own seed."""
    epochs: PositiveInt = 6
    """Passes over the (resampled) training rows."""
    max_steps: PositiveInt | None = None
    """Stop after so many optimizer steps; the schedule stays that of `epochs`. For trying out."""
    early_stopping_patience: PositiveInt | None = 3
    """Epochs without a better overall macro-F1 on validation before training ends; null: never."""
    keep: Literal["best", "last"] = "best"
    """best: the epoch with the best overall macro-F1 on validation; last: the last one, so that validation rows decide nothing."""
    average_epochs: PositiveInt = 1
    """Judge and keep the mean of the weights after each of so many of the newest epochs; 1: those of the epoch alone."""
    global_batch_size: PositiveInt = 36
    """Rows of an optimizer step over all workers."""
    micro_batch_size: PositiveInt = 12
    """Rows of one forward pass. Fixes the random numbers, so it is the same for any number of workers."""
    sort_pool: Count = 32
    """Length-sort inside shuffled pools of so many global batches: less padding; 0 keeps the plain random order."""
    eval_batch_size: PositiveInt = 64
    """Rows of one evaluation pass; no effect on results."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: bf16 where the hardware computes it fast, else fp32. fp16 needs a GPU."""
    max_bad_steps: PositiveInt = 3
    """Skipped steps with a non-finite loss or gradient before the run stops at its last good checkpoint."""
    deterministic: bool = False
    """Refuse operations that are not bit-reproducible: slower on GPU, no effect on CPU."""
    log_every: PositiveInt = 10
    """Optimizer steps between progress lines; reading the loss is the only synchronisation."""
    resamples: Annotated[int, Field(ge=100)] = 2000
    """Bootstrap resamples behind each 95 % interval."""

    @model_validator(mode="after")
    def _batches_divide(self) -> "TrainConfig":
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"train.global_batch_size ({self.global_batch_size}) must be a multiple of train.micro_batch_size ({self.micro_batch_size})"
            )
        return self


class ClusterConfig(ConfigSection):
    workers: Count = 1
    """Ray Train workers; 0 trains in this process without Ray."""
    gpu: Literal["auto", "always", "never"] = "auto"
    """One GPU a worker; auto: where the cluster has as many GPUs as workers."""
    cpus_per_worker: Positive = 1.0
    """CPUs reserved a worker; torch uses as many threads."""
    max_failures: Count = 2
    """Restarts of the worker group from its last checkpoint after a crash."""
    start_timeout_s: Positive = 120.0
    """Seconds to wait for the workers' resources before saying what is lacking."""
    max_workers: Count | None = None
    """Grow the group up to so many workers when the cluster has room, down to `workers` when nodes go; results do not change."""
    stall_minutes: Positive | None = 30.0
    """Minutes without a finished step or validation batch (three times as many before the first) after which the workers count as hung
    and are restarted from the last checkpoint; null: never."""
    checkpoint_minutes: Positive | None = 15.0
    """Minutes between checkpoints inside an epoch: less to do again after a fault, more to write; null: only after each epoch."""
    grace_s: Positive = 25.0
    """Seconds after a SIGTERM for a last checkpoint before the run ends without it; Kubernetes gives 30."""

    @model_validator(mode="after")
    def _grows(self) -> "ClusterConfig":
        if self.max_workers is not None and not 0 < self.workers <= self.max_workers:
            raise ValueError(
                f"cluster.max_workers ({self.max_workers}) must be at least cluster.workers ({self.workers}), and that at least 1: "
                "the group has from workers to max_workers of them"
            )
        return self


class Config(ConfigSection):
    """Everything that decides a run's numbers, and where it runs."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _per_task_keys_are_tasks(self) -> "Config":
        for path, mapping in self.per_task().items():
            for task, value in mapping.items():
                if task not in self.data.tasks:
                    raise ValueError(f"{path}.{task}: no such task; tasks: {', '.join(self.data.tasks)}")
                labels = self.data.tasks[task].labels
                for label in value if isinstance(value, dict) else ():
                    if label not in labels:
                        raise ValueError(f"{path}.{task}.{label}: no such class; classes of {task}: {', '.join(labels)}")
        name, most = ("workers", self.cluster.workers) if self.cluster.max_workers is None else ("max_workers", self.cluster.max_workers)
        if self.train.global_batch_size // self.train.micro_batch_size < most:
            raise ValueError(
                f"cluster.{name} ({most}) is more than the micro-batches of a step "
                f"({self.train.global_batch_size // self.train.micro_batch_size} = train.global_batch_size / train.micro_batch_size): "
                "lower one, or train.micro_batch_size"
            )
        return self

    def per_task(self) -> dict[str, PerTask]:
        """Every mapping whose first key is a task, by its path."""
        loss, sampling = self.loss, self.data.oversample
        return {
            "data.oversample.boosts": dict(sampling.boosts),
            "loss.task_weights": dict(loss.task_weights),
            "loss.class_weights.multipliers": dict(loss.class_weights.multipliers),
            "loss.focal_gamma": dict(loss.focal_gamma),
            "loss.label_smoothing": dict(loss.label_smoothing),
        }

    @property
    def labels(self) -> dict[str, list[str]]:
        """{task: classes in order}."""
        return self.data.labels
