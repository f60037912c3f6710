"""`polarity best`: the best model that this machine makes of some rows in a given time, as a run folder, and how good it is.

    read the rows -> plan -> members, each with out-of-fold predictions -> what combines them -> the run

Every finished member is kept with its out-of-fold predictions, so that a killed run goes on with the next one. Nothing that decides
is scored on rows that it decided with: see `polarity.best.stacking`. Test rows, where there are any, are scored once, at the end.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polarity import artifacts, quiet
from polarity.arrays import Codes, Floats
from polarity.artifacts import RunFolder
from polarity.best.plan import EncoderTraining, Plan, Speed, clock, make_plan
from polarity.best.record import (
    LABEL_ERRORS,
    BestRecord,
    Ceiling,
    Gain,
    MemberWorth,
    Outcome,
    Started,
    ceiling_lines,
    combination_lines,
)
from polarity.best.rows import NO_ENCODER, Asked, BestRows, Folds, check_asked, for_student, make_folds, read_rows
from polarity.best.stacking import FROZEN, FUSED, Choice, Judge, choose_rule, drop_one, fit_stack, member_alone, overall
from polarity.config import Config, SplitConfig
from polarity.data.ledger import build_ledger
from polarity.data.read import read_comments
from polarity.data.seen import SeenRows
from polarity.encoders import require_encoders, resolve_encoder
from polarity.environment import describe_environment
from polarity.errors import RunError, Say
from polarity.evaluate import Metrics, build_metrics, build_predictions, evaluate_split, render_metrics
from polarity.evaluate.judge import PLAN_CLASSES, TARGETS
from polarity.evaluate.predictions import of_split
from polarity.evaluate.render import Facts, last_screen
from polarity.paths import with_absolute_paths
from polarity.predict.scorers import Probabilities
from polarity.predict.stacked import ENCODER, Stack, StackMember
from polarity.resolve import dump_config
from polarity.workflows.best_training import fold_config, for_encoder, place_scores, teach_student, train_all
from polarity.workflows.train import calibrate_run, new_or_resumed

if TYPE_CHECKING:
    from polarity.model.embedding import Embedder

OOF, MEMBERS, FEATURES = "out_of_fold", "members", "features"
LATEST = 1.1
"""The student is begun where it would end by so much of the budget: what the plan did not foresee may take that much."""


def best(config: Config, asked: Asked, run_dir: str, *, resume: bool = False, say: Say = print) -> Metrics:
    """Write the run folder and return the content of its metrics.json.

    `config.data.source` is the labelled file. Raises PolarityError for whatever a user can mend.
    """
    config = with_absolute_paths(config)
    check_asked(config, asked)
    require_encoders(for_encoder(config, encoder) for encoder in _encoders(config, asked))
    with new_or_resumed(run_dir, resume) as folder:
        begun = time.monotonic()
        rows = read_rows(config, asked, say)
        record = _started(folder, config, asked, rows, resume, say)
    say(record.started.plan.describe())
    if record.started.plan.student is not None:
        rows = for_student(rows, config, say)
    work = _Work(config, asked, rows, folder, record, say)
    members = work.members()
    metrics = work.finish(members, begun)
    if quiet.verbose():
        say(render_metrics(metrics))
    for line in outcome_lines(record.outcome) if record.outcome else ():
        say(line)
    say(last_screen(metrics, work.facts()))
    say(f"run folder: {folder.uri}")
    return metrics


def plan_only(config: Config, asked: Asked, *, say: Say = print) -> Plan:
    """What `best` would do, from the same measurements."""
    config = with_absolute_paths(config)
    check_asked(config, asked)
    require_encoders(for_encoder(config, encoder) for encoder in _encoders(config, asked))
    rows = read_rows(config, asked, say)
    plan = _plan(config, asked, rows, _precision(config), say)
    if plan.student is not None:
        for_student(rows, config, say)
    return plan


def _precision(config: Config) -> str:
    from polarity.train.world import World, device_here, resolve_precision

    return resolve_precision(config.train.precision, World(device=device_here(config.cluster.gpu)))


def _started(folder: RunFolder, config: Config, asked: Asked, rows: BestRows, resume: bool, say: Say) -> BestRecord:
    """The run's plan: made now, or with `resume` the one that it began with."""
    mark = _fingerprint(config, asked, rows)
    if resume:
        record = BestRecord.read(folder)
        if record.started.fingerprint != mark:
            raise RunError(f"{folder.uri}: was begun with other rows or options; give the same ones, or choose another --run-dir")
        say(f"going on; done so far: {', '.join(record.seconds) or 'nothing'}")
        return record
    precision = _precision(config)
    started = Started(fingerprint=mark, plan=_plan(config, asked, rows, precision, say), precision=precision)
    record = BestRecord(started=started)
    record.write(folder)
    return record


def _fingerprint(config: Config, asked: Asked, rows: BestRows) -> str:
    """Of what decides the numbers: settings, options and rows; not where it runs."""
    numberless: Mapping[str, bool | set[str]] = {"cluster": True, "tracking": True, "data": {"source"}}
    settings = config.model_dump(mode="json", exclude=numberless)
    digest = hashlib.sha256(json.dumps([settings, asked.seconds, asked.encoders, asked.student, asked.unlabelled], sort_keys=True).encode())
    for table in [rows.labelled] if rows.test is None else [rows.labelled, rows.test]:
        for column in ["row_id", "title", "comment", *config.labels]:
            digest.update(repr(table[column].to_pylist()).encode())
    return digest.hexdigest()


def _plan(config: Config, asked: Asked, rows: BestRows, precision: str, say: Say) -> Plan:
    from polarity.best.speed import measure_speed
    from polarity.train.world import device_here

    count, speeds = rows.labelled.num_rows, []
    for encoder in _encoders(config, asked):
        sample = rows.labelled.slice(0, min(count, 512))
        speeds.append(measure_speed(for_encoder(config, encoder), sample, precision, device_here(config.cluster.gpu)))
        say(f"{encoder}: {1 / speeds[-1].seconds_per_row:,.1f} rows/s of training on one worker")
    workers = _workers(asked)
    return make_plan(asked.seconds, count, speeds, workers=workers, cheap_seconds=_cheap_seconds(count, speeds), student=asked.student)


def _cheap_seconds(rows: int, speeds: list[Speed]) -> float:
    """Linear and fused fits, curve and stack by rows, and one pass of each encoder, about a fourth of a training step, on one thread."""
    return 60 + 0.05 * rows + sum(0.25 * rows * speed.seconds_per_row for speed in speeds)


def _workers(asked: Asked) -> int:
    return len(os.sched_getaffinity(0)) if asked.workers is None and hasattr(os, "sched_getaffinity") else asked.workers or 0


def _encoders(config: Config, asked: Asked) -> list[str]:
    named = asked.encoders or [config.model.encoder]
    return [] if named == [NO_ENCODER] else named


@dataclass
class _Work:
    """One run under way."""

    config: Config
    asked: Asked
    rows: BestRows
    folder: RunFolder
    record: BestRecord
    say: Say

    def __post_init__(self) -> None:
        self.plan = self.record.started.plan
        self.labels = self.config.labels
        self.folds: Folds = make_folds(self.rows.labelled, self.config.data.split, list(self.labels), self.plan.folds)
        self.by_title = all(fold.by_title["validation"] for fold in self.folds.splits)
        self.judge = Judge.of(
            self.rows.labelled, self.labels, self.folds.number, by_title=self.by_title, resamples=self.config.train.resamples
        )

    def members(self) -> dict[str, tuple[StackMember, dict[str, Floats]]]:
        """{name: what stack.json says of it, its out-of-fold probabilities}, in the order in which they were made."""
        made: dict[str, tuple[StackMember, dict[str, Floats]]] = {}
        for member, make in self._makers():
            made[member.name] = (member, self._kept(member, make))
            self.say(f"{member.name}: {_percent(overall(member_alone(made[member.name][1], self.labels), self.judge))} out of fold")
        return made

    def _makers(self) -> Iterator[tuple[StackMember, Callable[[StackMember], Probabilities]]]:
        if pc.any(pc.not_equal(self.rows.labelled["title"], "")).as_py():
            yield self._light("title"), self._make_title
        yield self._light("linear"), self._make_linear
        names = _names(self.plan.frozen)
        for encoder, name in names.items():
            frozen = f"{MEMBERS}/{FROZEN}{name}"
            yield StackMember(name=f"{FROZEN}{name}", kind="frozen", folders=[frozen]), self._maker_of_frozen(encoder)
            folders = [f"{MEMBERS}/{FUSED}{name}", f"{frozen}/{ENCODER}"]
            yield StackMember(name=f"{FUSED}{name}", kind="fused", folders=folders), self._maker_of_fused(encoder)
        for training in self.plan.trainings:
            name = names[training.encoder]
            places = [f"{MEMBERS}/{name}/fold-{fold}" for fold in range(self.plan.folds)]
            yield StackMember(name=name, kind="encoder", folders=places), self._maker_of_encoder(training)

    def _light(self, kind: Any) -> StackMember:
        return StackMember(name=kind, kind=kind, folders=[f"{MEMBERS}/{kind}"])

    def _kept(self, member: StackMember, make: Callable[[StackMember], Probabilities]) -> dict[str, Floats]:
        """The member's out-of-fold probabilities, made now or kept from before a kill."""
        from polarity.best.members import load_probabilities, save_probabilities

        place = f"{OOF}/{member.name}.safetensors"
        if not self.folder.exists(place):
            started = time.monotonic()
            save_probabilities(self.folder, place, make(member))
            self.record.seconds[member.name] = time.monotonic() - started
            self.record.write(self.folder)
        return load_probabilities(self.folder, place, self.labels, self.rows.labelled.num_rows)

    def _make_title(self, member: StackMember) -> Probabilities:
        from polarity.best.members import title_member

        found, prior = title_member(self.rows.labelled, self.folds, self.labels)
        self.folder.write_folder(member.folders[0], prior.save)
        return found

    def _make_linear(self, member: StackMember) -> Probabilities:
        from polarity.baselines.floors import save_linear
        from polarity.best.members import linear_member

        found, floor = linear_member(self.rows.labelled, self.folds, self.labels, self.say)
        self.folder.write_folder(member.folders[0], lambda place: save_linear(place, floor, self.labels))
        return found

    def _maker_of_frozen(self, encoder: str) -> Callable[[StackMember], Probabilities]:
        from polarity.best.members import frozen_member

        def make(member: StackMember) -> Probabilities:
            embedder = self._embedder(encoder)
            found, dense = frozen_member(self.rows.labelled, self.folds, self.labels, self._features(encoder, embedder))

            def fill(place: Path) -> None:
                dense.save(place)
                (place / ENCODER).mkdir()
                embedder.save(place / ENCODER)

            self.folder.write_folder(member.folders[0], fill)
            return found

        return make

    def _maker_of_fused(self, encoder: str) -> Callable[[StackMember], Probabilities]:
        from polarity.best.members import fused_member

        def make(member: StackMember) -> Probabilities:
            found, fused = fused_member(self.rows.labelled, self.folds, self.labels, self._features(encoder), self.say)
            self.folder.write_folder(member.folders[0], fused.save)
            return found

        return make

    def _embedder(self, encoder: str) -> "Embedder":
        from polarity.model.embedding import Embedder
        from polarity.train.world import device_here

        files = resolve_encoder(encoder, for_encoder(self.config, encoder).model.revision)
        return Embedder.load(files.folder, device_here(self.config.cluster.gpu))

    def _features(self, encoder: str, embedder: "Embedder | None" = None) -> NDArray[np.float32]:
        """The sentence vectors of the labelled rows, kept until the run is finished; the encoder is loaded only if they are missing."""
        from polarity.best.members import load_features, save_features

        kept, rows = f"{FEATURES}/{_names(self.plan.frozen)[encoder]}.safetensors", self.rows.labelled
        if not self.folder.exists(kept):
            embedder = embedder or self._embedder(encoder)
            save_features(self.folder, kept, embedder.features(rows["comment"].to_pylist(), rows["title"].to_pylist()))
        return load_features(self.folder, kept)

    def _maker_of_encoder(self, training: EncoderTraining) -> Callable[[StackMember], Probabilities]:
        def make(member: StackMember) -> Probabilities:
            config = fold_config(self.config, training, self.record.started.precision)
            self._train_folds(config, member)
            found = {task: np.zeros((self.rows.labelled.num_rows, len(classes))) for task, classes in self.labels.items()}
            for fold, place in enumerate(member.folders):
                predictions = RunFolder.open(self.folder.inside(place)).read_parquet(artifacts.PREDICTIONS)
                place_scores(predictions, self.rows.labelled, self.folds.number == fold, self.labels, found)
            return found

        return make

    def _train_folds(self, config: Config, member: StackMember) -> None:
        todo = {place: fold for fold, place in enumerate(member.folders) if not self.folder.exists(f"{place}/{artifacts.PREDICTIONS}")}
        if not todo:
            return
        places = {self.folder.inside(place): self.folds.splits[fold] for place, fold in todo.items()}
        done = len(member.folders) - len(todo)
        started = time.monotonic()
        for finished in train_all(config, places, self.plan.workers, self.say):
            done += 1
            passed = time.monotonic() - started
            left = passed / (done - len(member.folders) + len(todo)) * (len(member.folders) - done)
            scored = RunFolder.open(finished).read_parquet(artifacts.PREDICTIONS)
            score = evaluate_split(scored, self.labels, resamples=1, by_title=False, with_slices=False)["overall"]["macro_f1"]
            self.say(
                f"{member.name}: fold {done} of {len(member.folders)} done in {clock(passed)}, {_percent(score)} on its rows"
                + (f"; about {clock(left)} left" if left else "")
            )

    def finish(self, made: dict[str, tuple[StackMember, dict[str, Floats]]], begun: float) -> Metrics:
        """Combine the members, judge, and write the run."""
        members = {name: found for name, (_, found) in made.items()}
        choice = choose_rule(members, self.judge)
        stack = Stack(labels=self.labels, members=[member for member, _ in made.values()], tasks=fit_stack(choice, members, self.judge))
        self.folder.write_json(artifacts.STACK, stack.model_dump(mode="json"))
        predictions = self.judge.predictions(choice.crossed)
        self._describe()
        self.folder.write_parquet(artifacts.PREDICTIONS, predictions)
        if self.rows.test is not None:
            predictions = pa.concat_tables([predictions, self._score_test(self.rows.test)])
            self.folder.write_parquet(artifacts.PREDICTIONS, predictions)
        student = self._student(choice, begun)
        suspects = self._label_errors(choice)
        ceiling = self._ceiling(choice, {name: found for name, (member, found) in made.items() if member.kind != "fused"}, suspects)
        rated = self._rated(choice, members, {name: member.kind for name, (member, _) in made.items()})
        top = max(rated, key=lambda member: member.macro_f1).name
        alone = member_alone(members[top], self.labels)
        outcome = Outcome(
            rule=choice.rule,
            rules=choice.scores,
            over_simplest=choice.over_simplest,
            biases=choice.biases,
            members=rated,
            against_best_member=self.judge.difference(choice.crossed, alone) if len(rated) > 1 else None,
            label_errors={task: len(rows) for task, rows in suspects.items()},
            ceiling=ceiling,
            student=student,
            seconds=time.monotonic() - begun,
        )
        self.record.outcome = outcome
        self.record.write(self.folder)
        metrics = self._judge(predictions, members)
        if self.folder.exists(FEATURES):
            self.folder.delete_folder(FEATURES)
        return metrics

    def facts(self) -> Facts:
        """What the last screen says beside the scores; without a source, for another `best` on the same rows is no advice."""
        rows, with_titles = self.rows.labelled.num_rows, self.config.data.title_column is not None
        return Facts(self.folder.uri.removeprefix("file://"), None, rows, self.by_title, with_titles, epoch_scores=[])

    def _describe(self) -> None:
        """Configuration, environment and ledger, as a training writes them."""
        sources = [s for s in (self.config.data.source, self.config.data.test) if s]
        encoders = self.plan.frozen
        files = resolve_encoder(encoders[0], for_encoder(self.config, encoders[0]).model.revision) if encoders else None
        environment = describe_environment(seeds={"split": self.config.data.split.seed}, sources=sources, encoder=files)
        environment["rows"] = {"train": self.rows.labelled.num_rows}
        if self.rows.test is not None:
            environment["rows"]["test"] = self.rows.test.num_rows
        config = for_encoder(self.config, encoders[0]) if encoders else self.config
        self.folder.write_json(artifacts.ENVIRONMENT, environment)
        build_ledger(self.rows.labelled, config).write(self.folder)
        self.folder.write_text(artifacts.CONFIG, dump_config(config))

    def _score_test(self, test: pa.Table) -> pa.Table:
        """By the saved stack as anybody would load it."""
        from polarity.predict.classifier import load_classifier

        scores = load_classifier(self.folder.uri, raw=True).score(test)
        chances, chosen = ({task: getattr(scores[task], name) for task in self.labels} for name in ("probabilities", "predicted"))
        return build_predictions("test", test, chances, self.labels, chosen)

    def _rated(self, choice: Choice, members: dict[str, dict[str, Floats]], kinds: Mapping[str, str]) -> list[MemberWorth]:
        """Each member's own out-of-fold score, and what the stack loses without it."""
        worth = drop_one(choice, members, self.judge)
        rated = []
        for name, member in members.items():
            judged = evaluate_split(
                self.judge.predictions(member_alone(member, self.labels)),
                self.labels,
                resamples=self.config.train.resamples,
                by_title=self.by_title,
                with_slices=False,
            )["overall"]
            rated.append(
                MemberWorth(
                    name=name,
                    kind=kinds[name],
                    macro_f1=judged["macro_f1"],
                    ci95=(judged["ci95"][0], judged["ci95"][1]),
                    drop_one=worth.get(name),
                    seconds=self.record.seconds.get(name, 0.0),
                )
            )
        return rated

    def _student(self, choice: Choice, begun: float) -> str | None:
        """The student, and how good it is beside the stack on the rows that it was not taught."""
        training, test = self.plan.student, self.rows.test
        if training is None or test is None:  # `for_student` has seen to test rows where a student is planned
            return None
        left = self.plan.budget * LATEST - (time.monotonic() - begun)
        if left < training.seconds and not self.folder.exists(artifacts.STUDENT):
            return (
                f"not made: {clock(training.seconds)} are expected and {clock(max(0.0, left))} are left; go on with --resume and more time"
            )
        self.say(f"student: one {training.encoder} is taught what the stack says of each row ({clock(training.seconds)} expected)")
        started = time.monotonic()
        metrics = teach_student(
            self.config, training, self.record.started.precision, self.folder, self.rows.labelled, choice.crossed.probabilities,
            self._pseudo_labelled(), test, self.say,
        )  # fmt: skip
        self.record.seconds.setdefault(artifacts.STUDENT, time.monotonic() - started)
        judged = metrics["validation"]
        score = _percent(judged["overall"]["macro_f1"])
        return f"{score} on {judged['rows']:,} rows that neither it nor the stack has seen; {self._beside()}"

    def _beside(self) -> str:
        """The paired difference of the student to the stack on the test rows, which are the student's held-out rows."""
        from polarity.evaluate import paired_difference

        student = RunFolder.open(self.folder.inside(artifacts.STUDENT)).read_parquet(artifacts.PREDICTIONS)
        rows, stack = of_split(student, "validation"), of_split(self.folder.read_parquet(artifacts.PREDICTIONS), "test")
        order = pc.index_in(stack["row_id"].combine_chunks(), value_set=rows["row_id"].combine_chunks())
        found = paired_difference(rows.take(order), stack, self.labels, resamples=self.config.train.resamples, by_title=self.by_title)[
            "overall"
        ]
        difference = Gain(difference=found["difference"], ci95=(found["ci95"][0], found["ci95"][1]), verdict=found["verdict"])
        return f"against the stack there {difference.interval}, {difference.verdict}"

    def _pseudo_labelled(self) -> tuple[pa.Table, Probabilities] | None:
        """Unlabelled comments with the stack's probabilities; the likeliest class is their label, which only weighs the row."""
        if self.asked.unlabelled is None:
            return None
        from polarity.predict.classifier import load_classifier

        plain = self.config.data.model_copy(update={"split": SplitConfig()})
        table = read_comments(self.asked.unlabelled, plain, labelled=False, say=self.say)
        ids = pc.binary_join_element_wise(pa.scalar("unlabelled"), table["row_id"].cast(pa.string()), pa.scalar("/"))
        table = table.select(["row_id", "title", "comment"]).set_column(0, "row_id", ids.cast(self.rows.labelled["row_id"].type))
        scores = load_classifier(self.folder.uri, raw=True).score(table)
        for task in self.labels:
            table = table.append_column(task, pa.array(scores[task].predicted).cast(self.rows.labelled[task].type))
        self.say(f"{self.asked.unlabelled}: {table.num_rows:,} comments without labels, which the stack has labelled with probabilities")
        return table, {task: scores[task].probabilities for task in self.labels}

    def _label_errors(self, choice: Choice) -> dict[str, Codes]:
        """{task: rows whose label the out-of-fold stack contradicts with confidence}, listed in label_errors.parquet."""
        from polarity.report.run_rows import label_errors

        tables, suspects = [], {}
        for task, classes in self.labels.items():
            chances = choice.crossed.probabilities[task].astype(np.float64)
            found = label_errors(self.judge.codes[task], chances)
            names = pa.array(classes, pa.string())
            labels = self.judge.codes[task][found.rows]
            columns = {
                "row_id": self.rows.labelled["row_id"].take(pa.array(found.rows)),
                "task": pa.repeat(pa.scalar(task, pa.string()), len(found.rows)),
                "label": names.take(pa.array(labels)),
                "suggested": names.take(pa.array(found.suggested)),
                "p_label": pa.array(chances[found.rows, labels]),
            }
            tables.append(pa.table(columns))
            suspects[task] = found.rows
        self.folder.write_parquet(LABEL_ERRORS, pa.concat_tables(tables))
        return suspects

    def _ceiling(self, choice: Choice, members: dict[str, dict[str, Floats]], suspects: dict[str, Codes]) -> Ceiling | None:
        """The learning curve of the cheap members and what the labels allow, from members that read either words or vectors; None where
        the rows are too few."""
        from polarity.best.ceiling import FEWEST_ROWS, curve_scores, find_ceiling, label_doubts
        from polarity.best.members import refits

        if self.rows.labelled.num_rows < FEWEST_ROWS:
            return None
        started = time.monotonic()
        encoder = next(iter(self.plan.frozen), None)
        features = None if encoder is None else self._features(encoder)
        whole = [members["linear"]] + ([] if encoder is None else [members[f"{FROZEN}{_names(self.plan.frozen)[encoder]}"]])
        fits = refits(self.rows.labelled, self.labels, features)
        sizes, scores = curve_scores(self.judge, self.folds, fits, whole, resamples=self.config.train.resamples)
        rows, stack = self.rows.labelled.num_rows, overall(choice.crossed, self.judge)
        planned = {task: set(names) for task, names in self.labels.items()} == {task: set(names) for task, names in PLAN_CLASSES.items()}
        found = find_ceiling(sizes, scores, stack, rows, TARGETS["minimum"]["overall"] if planned else None)
        self.record.seconds["learning curve"] = time.monotonic() - started
        return found.model_copy(update={"labels": label_doubts(members, choice.crossed, suspects, self.judge)})

    def _judge(self, predictions: pa.Table, members: dict[str, dict[str, Floats]]) -> Metrics:
        """Calibration, metrics beside the floors (out of fold as the stack is), and the report."""
        from polarity.report.record import CommentTexts
        from polarity.workflows.report import report_run

        calibrate_run(self.folder, self.say, labels=self.labels, whole=quiet.verbose())
        rows = {"train": self.rows.labelled} | ({} if self.rows.test is None else {"test": self.rows.test})
        self.folder.write_parquet(artifacts.SEEN, SeenRows.of(rows).table)
        metrics = build_metrics(
            predictions,
            self._floors(members),
            self.labels,
            resamples=self.config.train.resamples,
            by_title=self.by_title,
            out_of_fold=True,
        )
        if str(self.config.data.source).split(":")[0] == "sample":
            metrics["data"] = "SYNTHETIC sample corpus"
        self.folder.write_json(artifacts.METRICS, metrics)
        tables = {"validation": self.rows.labelled} | ({} if self.rows.test is None else {"test": self.rows.test})
        report_run(self.folder, say=self.say, comments=CommentTexts(tables))
        return metrics

    def _floors(self, members: dict[str, dict[str, Floats]]) -> dict[str, dict[str, pa.Table]]:
        """The floors of the labelled rows out of fold, those of test rows fitted on all labelled ones."""
        from polarity.baselines.floors import floors, majority
        from polarity.best.members import out_of_fold

        labelled, labels = self.rows.labelled, self.labels
        common = out_of_fold(labelled, self.folds, labels, lambda train: lambda table: majority(train, table, labels))
        chances = {"majority": common} | {name: members[name] for name in ("title", "linear") if name in members}
        found = {"validation": {name: build_predictions("validation", labelled, p, labels) for name, p in chances.items()}}
        if self.rows.test is not None:
            found |= floors(labelled, {"test": self.rows.test}, labels, say=self.say)
        return found


def _names(encoders: list[str]) -> dict[str, str]:
    """{encoder: a short name for its folder}, distinct."""
    found: dict[str, str] = {}
    for encoder in encoders:
        base = "".join(c if c.isalnum() or c in "._-" else "-" for c in encoder.rstrip("/").rpartition("/")[2]) or "encoder"
        if base.startswith((FROZEN, FUSED)):  # what its cheap members are called
            base = f"encoder-{base}"
        name, number = base, 2
        while name in found.values() or name in ("title", "linear"):
            name, number = f"{base}-{number}", number + 1
        found[encoder] = name
    return found


def outcome_lines(outcome: Outcome) -> Iterator[str]:
    """What came of it, in words."""
    for member in sorted(outcome.members, key=lambda each: -each.macro_f1):
        worth = "" if member.drop_one is None else f"; without it the stack loses {member.drop_one.interval}"
        yield f"{member.name}: {_percent(member.macro_f1)} alone, {clock(member.seconds)}{worth}"
    yield from combination_lines(outcome)
    if outcome.ceiling is not None:
        yield from ceiling_lines(outcome.ceiling)


def _percent(score: float) -> str:
    return f"{100 * score:.1f} %"
