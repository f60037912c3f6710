"""The model card: README.md of a run's model folder, written from the run's artifacts, with the header that Hugging Face's hub reads.

Nothing in it is text of the data, and no folder of the machine is named: it may travel with the model.
"""

from collections.abc import Sequence

from huggingface_hub import EvalResult, ModelCardData

from polarity.environment import commit_of
from polarity.evaluate import results
from polarity.evaluate.render import plain_verdict
from polarity.report.charts import fraction, signed
from polarity.report.page import environment
from polarity.report.record import Record
from polarity.report.run import short_path
from polarity.report.run_scores import projection

FEW_ROWS = 100
"""Judged rows of a class below which its score is called rough."""


def render_card(record: Record, task: str | None = None, usage: str = "") -> str:
    """The card of a run; or of one `task` alone, with `usage` on how to load it, for its own folder."""
    split = record.split if task is None else {**record.split, "tasks": {task: record.split["tasks"][task]}}
    labels = {name: classes for name, classes in record.labels.items() if task in (None, name)}
    config = record.config
    body = environment().get_template("card.md").render(
        name=f"{record.run.name}: {plain(task)}" if task else record.run.name,
        synthetic=record.run.synthetic,
        planned=record.planned,
        encoder=plain(short_path(config.model.encoder)) if config else None,
        inference=config.model.multi_sample.inference if config else "off",
        order=config.data.order if config else None,
        max_length=config.data.max_length if config else None,
        points=", ".join(map(str, record.points)),
        projection=projection(record.points)[1],
        labels={plain(name): [plain(label) for label in classes] for name, classes in labels.items()},
        task=task and plain(task),
        usage=usage,
        split=record.called,
        fitted_on="out-of-fold" if record.run.kind == "stack" else "validation",
        rows=split["rows"],
        intervals=results.how_intervals(record.split["intervals"]),
        chose=results.what_rows_decided(record.split),
        plain_verdict=plain_verdict(record.split),
        scores=_score_rows(split),
        classes=_class_rows(split),
        targets=[(plain(e["metric"]), e["target"], e["verdict"]) for e in results.verdict_of(split)["minimum"] if task is None],
        sizes=record.run.environment.get("rows", {}),
        dropped=record.run.environment.get("dropped_from_train", {}).get("rows"),
        grouped=bool(config and config.data.split.kind == "group" and config.data.source is not None),
        balance=[row for row in _balance(record) if task is None or row[0] == plain(task)],
        warnings=record.run.ledger.warnings if record.run.ledger else [],
        rough=_rough(split),
        weakest=[(plain(t), plain(s["weakest_class"]["label"]), fraction(s["weakest_class"]["f1"])) for t, s in split["tasks"].items()],
        temperatures=sorted(plain(name) for name, found in record.run.calibration.items() if found.fitted),
        biased=sorted(plain(name) for name, found in record.run.calibration.items() if found.biases is not None),
        packages=record.run.environment.get("packages", {}),
        commit=commit_of(record.run.environment),
    )  # fmt: skip
    return f"---\n{card_data(record, task).to_yaml()}\n---\n\n{body}"


def card_data(record: Record, task: str | None = None) -> ModelCardData:
    """The header: tags, base model where it is a hub's name, and the judged scores (of one `task`, or all) as evaluation results."""
    encoder = record.config.model.encoder if record.config else ""
    on_hub = bool(encoder) and ":" not in encoder and not encoder.startswith(("/", "~", "."))
    chose = results.what_rows_decided(record.split)
    judged, evaluations = f"{record.called} rows{f' ({chose})' if chose else ''}", []
    for scope in (task,) if task else ("overall", *record.split["tasks"]):
        evaluations.append(
            EvalResult(
                task_type="text-classification",
                dataset_type="synthetic-sample" if record.run.synthetic else "own-rows",
                dataset_name=f"{'SYNTHETIC sample corpus' if record.run.synthetic else 'own labelled comments'}, {judged}",
                dataset_split=record.called,
                metric_type="f1",
                metric_name=f"macro-F1, {scope}",
                metric_value=round(results.score_of(record.split, scope)["macro_f1"], 4),
            )
        )
    return ModelCardData(
        library_name="transformers" if task else "polarity",
        pipeline_tag="text-classification",
        tags=["polarity", task] if task else ["text-classification", "multi-task", *record.labels],
        base_model=encoder if on_hub else None,
        model_name=f"{record.run.name}-{task}" if task else record.run.name,
        eval_results=evaluations,
    )


def plain(text: str) -> str:
    """A name as Markdown text: no cell ends in it, no tag begins."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def _with_interval(value: float, ci95: Sequence[float]) -> str:
    low, high = ci95
    return f"{fraction(value)} [{fraction(low)}, {fraction(high)}]"


def _macro_f1(scores: results.Overall | results.TaskResult) -> str:
    return _with_interval(scores["macro_f1"], scores["ci95"])


def _score_rows(split: results.PartResult) -> list[tuple[str, str, str]]:
    """(what, score with interval, paired difference) of the model and each floor, for overall and each task."""
    rows = []
    for scope in split["tasks"] if len(split["tasks"]) == 1 else ("overall", *split["tasks"]):
        rows.append((f"**{plain(scope)}**", f"**{_macro_f1(results.score_of(split, scope))}**", ""))
        for name, floor in results.floors_of(split).items():
            difference = results.difference_of(floor["difference"], scope)
            low, high = difference["ci95"]
            words = f"{signed(difference['difference'])} [{signed(low)}, {signed(high)}], {difference['verdict']}"
            rows.append((f"{name} floor", _macro_f1(results.score_of(floor, scope)), words))
    return rows


def _class_rows(split: results.PartResult) -> list[tuple[str, str, str, str, str, str]]:
    return [
        (
            plain(task),
            plain(label),
            _with_interval(s["f1"], s["ci95"]),
            fraction(s["precision"]),
            fraction(s["recall"]),
            f"{s['support']:,}",
        )
        for task, scores in split["tasks"].items()
        for label, s in scores["per_class"].items()
    ]


def _balance(record: Record) -> list[tuple[str, str, str]]:
    """(task, class, rows and share) of the training rows."""
    tasks = {} if record.run.ledger is None else record.run.ledger.tasks
    listed = [(task, entry) for task, entries in tasks.items() for entry in entries]
    return [(plain(task), plain(entry.name), f"{entry.rows:,} ({entry.share:.1%})") for task, entry in listed]


def _rough(split: results.PartResult) -> list[str]:
    return [
        f"{plain(task)} {plain(label)} ({scores['support']:,} rows)"
        for task, judged in split["tasks"].items()
        for label, scores in judged["per_class"].items()
        if scores["support"] < FEW_ROWS
    ]
