"""A finished run's rows, read again through its own configuration and held against what it predicted."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from polarity import artifacts
from polarity.artifacts import RunFolder
from polarity.data.seen import SeenRows
from polarity.data.split import Splits, load_splits
from polarity.environment import MadeFrom, describe_environment
from polarity.errors import RunError, Say
from polarity.evaluate import Metrics, render_metrics
from polarity.evaluate.predictions import label_column
from polarity.resolve import dump_config
from polarity.run import Run
from polarity.workflows.train import calibrate_run, judge


def read_again(run: Run, say: Say) -> Splits:
    """The run's splits. Raises DataError where the data cannot be read, RunError where it is no longer what the run was judged on."""
    splits = load_splits(run.data, say)
    aligned_predictions(run, splits)
    return splits


def aligned_predictions(run: Run, splits: Splits) -> dict[str, pa.Table]:
    """The run's predictions of each held-out split, in the splits' row order. Raises RunError where its rows or labels are others."""
    return {name: _aligned(run, name, table) for name, table in splits.held_out.items()}


def _aligned(run: Run, split: str, table: pa.Table) -> pa.Table:
    """Raises RunError naming a row that only the run or the data has, or whose label they give differently."""
    of_split = run.rows(split)
    ids_then, ids_now = (part["row_id"].cast(pa.string()).combine_chunks() for part in (of_split, table))
    rows = pc.index_in(ids_now, value_set=ids_then)
    here = rows.null_count
    if here or of_split.num_rows != table.num_rows:
        only = table.filter(pc.is_null(rows))["row_id"].to_pylist()
        gone = of_split.filter(
            pc.invert(pc.is_in(of_split["row_id"].cast(pa.string()), table["row_id"].cast(pa.string()).combine_chunks()))
        )
        example = repr((only or gone["row_id"].to_pylist())[0])
        raise RunError(
            f"{run.uri}: its {split} rows are not those of the data ({here} rows are new, {gone.num_rows} are gone, e.g. {example}): "
            "it was made on another split or the data has changed since; use runs of one split, and the data that they were trained on"
        )
    ordered = of_split.take(rows)
    for task, classes in run.labels.items():
        names = pa.array(classes, pa.string()).take(table[task].combine_chunks())
        then = pc.fill_null(ordered[label_column(task)].cast(pa.string()), "").combine_chunks()
        differ = pc.not_equal(then, pc.fill_null(names, ""))
        if pc.any(differ).as_py():
            row = ordered["row_id"].to_pylist()[pc.index(differ, True).as_py()]
            raise RunError(
                f"{run.uri}: its {split} row {row!r} had another label of {task}: the labels have changed since, or it is another file"
            )
    return ordered


def _open_member(place: str) -> Run:
    """A finished run. Raises RunError: no run, unfinished, damaged, or an ensemble."""
    run = Run.open(place)
    if run.kind == "ensemble":
        raise RunError(f"{run.uri}: is an ensemble itself; name its members' runs instead")
    for name in (artifacts.CONFIG, artifacts.PREDICTIONS, artifacts.ENVIRONMENT):
        if not run.has(name):
            raise RunError(f"{run.uri}: has no {name}; is the run finished?")
    _ = run.predictions
    return run


def open_members(runs: Sequence[str], least: int) -> list[Run]:
    """The members in the given order, checked to be of one kind. Raises RunError: too few, one named twice, other labels or rows."""
    if len(runs) < least:
        raise RunError(f"{len(runs)} run{'s' * (len(runs) != 1)} given, at least {least} are needed")
    members = [_open_member(run) for run in runs]
    places = [(m.folder.filesystem.type_name, m.folder.filesystem.normalize_path(m.folder.root)) for m in members]
    twice = next((m.folder.uri for m, place in zip(members, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise RunError(f"{twice}: is named twice")
    first = members[0]
    for member in members[1:]:
        if member.config.labels != first.config.labels:
            raise RunError(f"{member.folder.uri}: has other tasks or classes than {first.folder.uri}; use runs of the same labels")
        _check_same_training_rows(first, member)
    return members


def _check_same_training_rows(first: Run, other: Run) -> None:
    """No member may have been trained on rows that judge: told by the rows' hashes, of older runs by the data's hash and their number."""
    if first.seen is not None and other.seen is not None:
        for one, judged in ((first, other), (other, first)):
            trained_on = one.trained_on_held_out_of(judged)
            if trained_on:
                raise RunError(
                    f"{one.uri}: was trained on {trained_on:,} rows that are validation or test rows of {judged.uri}, so that they cannot "
                    "judge both: use runs of one split of the same data"
                )
        return
    hashes = [sorted(str(sha or name) for name, sha in m.environment.get("data", {}).items()) for m in (first, other)]
    rows = [m.environment.get("rows", {}).get("train") for m in (first, other)]
    if hashes[0] != hashes[1] or rows[0] != rows[1]:
        what = "other data" if hashes[0] != hashes[1] else f"{rows[1]} training rows instead of {rows[0]}"
        raise RunError(
            f"{other.folder.uri}: was trained on {what} than {first.folder.uri}, so that its training rows may be among the rows that "
            "judge: use runs of one split of the same data"
        )


@contextmanager
def new_run(out: str) -> Iterator[RunFolder]:
    """A local folder to write into, which becomes `out` when the block ends well; else nothing of it is left.

    It stands beside `out`, or for a remote `out` in the system's temporary folder. Raises RunError where `out` holds anything or
    cannot be written.
    """
    if not out.strip():
        raise RunError("--out is empty: give a new folder or a URI such as s3://bucket/judged")
    target = RunFolder.at(out)
    held = target.list("")
    if held:
        raise RunError(f"{target.uri}: holds something already ({held[0]}); choose another --out")
    target.check_writable()
    if target.local is None:
        with tempfile.TemporaryDirectory(prefix="polarity-new-run-") as temporary:
            yield RunFolder.at(temporary)
            _send(Path(temporary), target)
        return
    target.remove_if_empty()  # made by the check; what follows may still refuse
    staging = target.local.with_name(f".{target.local.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with artifacts.disk_errors(target.uri):
            staging.mkdir()
        yield replace(target, root=str(staging))
        with artifacts.disk_errors(target.uri), artifacts.replacing(target.local) as last:
            os.replace(staging, last)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _send(source: Path, target: RunFolder) -> None:
    """Copy a folder to an empty remote one; where that fails, what has arrived is deleted again."""
    try:
        with artifacts.disk_errors(target.uri):
            target.filesystem.create_dir(target.root, recursive=True)
            pafs.copy_files(str(source), target.root, pafs.LocalFileSystem(), target.filesystem)
    except RunError:
        with suppress(OSError):
            target.filesystem.delete_dir_contents(target.root, missing_dir_ok=True)
        raise


@contextmanager
def writing(folder: RunFolder, name: str) -> Iterator[Path]:
    """The place of a new local run's folder `name`; a refusal to write there, of safetensors too, is a RunError."""
    from safetensors import SafetensorError

    try:
        yield Path(folder.root) / name
    except (OSError, SafetensorError) as error:
        why = str(error).splitlines()[0]
        raise RunError(
            f"{folder.uri}/{name}: cannot be written ({why}); if the disk is full, free some space or choose another --out"
        ) from error


def write_run(
    folder: RunFolder, members: Sequence[Run], made_from: list[MadeFrom], splits: Splits, predictions: pa.Table, say: Say
) -> Metrics:
    """Write configuration, environment, predictions (of all held-out splits), calibration and metrics; returns the last."""
    config, before = members[0].config, members[0].environment
    now = describe_environment(seeds={"split": config.data.split.seed}, sources=config.data.sources)
    now["made_from"] = made_from
    if "encoder" in before:
        now["encoder"] = before["encoder"]
    if "rows" in before:
        now["rows"] = before["rows"]
    if "dropped_from_train" in before:
        now["dropped_from_train"] = before["dropped_from_train"]
    folder.write_text(artifacts.CONFIG, dump_config(config))
    folder.write_json(artifacts.ENVIRONMENT, now)
    if members[0].has(artifacts.LEDGER):
        folder.write_bytes(artifacts.LEDGER, members[0].folder.read_bytes(artifacts.LEDGER))
    folder.write_parquet(artifacts.PREDICTIONS, predictions)
    seen = [member.seen for member in members]
    kept_hashes = [rows for rows in seen if rows is not None]
    if len(kept_hashes) == len(seen):
        folder.write_parquet(artifacts.SEEN, SeenRows.union(kept_hashes).table)
    calibrate_run(folder, say, labels=config.labels)
    metrics = judge(config, folder, splits, say)
    say(render_metrics(metrics))
    return metrics


def copy_folder(source: RunFolder, name: str, target: RunFolder, under: str) -> None:
    """Copy the folder `name` of one run into `under`/`name` of another, wherever the two lie."""
    with tempfile.TemporaryDirectory(prefix="polarity-member-") as temporary:
        target.write_folder(f"{under}/{name}", source.fetch_folder(name, Path(temporary)))
