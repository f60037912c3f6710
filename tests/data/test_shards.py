"""Shards: the same rows, tokens and losses as from memory, to the bit; what is damaged, full, broken off or changed is said and mended."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from polarity.config import Config
from polarity.data import shards
from polarity.data.batch import Corpus, global_batches
from polarity.data.ledger import TaskStatistics
from polarity.data.seen import SeenRows
from polarity.data.shards import Preparation
from polarity.encoders import load_tokenizer
from polarity.errors import DataError
from polarity.train.loop import Tables, run_training
from polarity.train.world import World
from polarity.workflows.train import Prepared, prepare
from tests.observe import configured
from tests.tiny import COLUMNS, DEFAULT_TASKS, tiny_comments
from tests.train.runs import Heard, encoder_folder, fresh_model, on_ranks
from tests.train.test_full_disk import shell


def quiet(line: str) -> None:
    pass


def write(path: Path, rows: int = 400, seed: int = 3, bad: bool = False, copies: int = 0) -> Path:
    """A Parquet file of groups of 50 rows; `copies` of its first comments come once more at its end, with a mark."""
    table = tiny_comments(rows, seed)
    named = {"row_id": table["row_id"], "Title": table["title"], "Comment": table["comment"]}
    for task, column in COLUMNS.items():
        named[column] = pa.array([None if i is None else DEFAULT_TASKS[task][i] for i in table[task].to_pylist()], pa.string())
    found = pa.table(named).to_pylist()
    found += [{**row, "row_id": f"copy{i}", "Comment": row["Comment"].upper() + " !"} for i, row in enumerate(found[:copies])]
    if bad:
        found[7]["Comment"], found[60]["Final Sentiment"] = "", "angry"
    pq.write_table(pa.Table.from_pylist(found), path, row_group_size=50)
    return path


def both(tmp_path: Path, *settings: str) -> tuple[Prepared, Prepared, list[str]]:
    """The data from memory and from shards, and what was said of the shards."""
    said: list[str] = []
    one = prepare(configured("data.shards=never", *settings), quiet)
    return one, prepare(configured("data.shards=always", f"data.shard_dir={tmp_path / 'shards'}", *settings), said.append), said


def assert_same(one: Prepared, other: Prepared) -> None:
    assert list(one.splits.parts) == list(other.splits.parts) == list(one.tokens) == list(other.tokens)
    for name, table in one.splits.parts.items():
        assert other.splits.parts[name].equals(table), name
        for column in one.tokens[name].column_names:
            assert other.tokens[name][column].combine_chunks().equals(one.tokens[name][column].combine_chunks()), (name, column)
    assert other.splits.leaks.equals(one.splits.leaks) and other.splits.dropped == one.splits.dropped
    assert one.ledger == other.ledger
    assert other.splits.seen is not None and other.splits.seen().equals(SeenRows.of(one.splits.parts).table)


@pytest.mark.parametrize("kind", ["plan", "joint", "group"])
def test_shards_hold_what_memory_holds(kind: str, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.parquet", bad=True, copies=40)
    one, other, said = both(tmp_path, f"data.source={source}", f"data.split.kind={kind}", "data.bad_rows=drop")
    assert_same(one, other)
    assert one.splits.dropped > 0 or kind == "group"
    assert any("left out 1 of 440 rows; 1 more lost a bad label" in line for line in said)
    config = configured()
    mapped, held = (Corpus.from_table(p.tokens["train"], list(config.labels), p.pad_id) for p in (other, one))
    assert len(mapped.tokens.pieces) > 5 and np.array_equal(mapped.used_tokens(), held.used_tokens())
    for rows, same in zip(global_batches(mapped, config, 1), global_batches(held, config, 1), strict=True):
        assert np.array_equal(rows, same)
        assert np.array_equal(mapped.collate(rows).input_ids, held.collate(rows).input_ids)


def test_own_files_and_a_split_column(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.parquet", rows, seed) for seed, (name, rows) in enumerate((("train", 200), ("validation", 120)))]
    one, other, said = both(tmp_path, f"data.train={files[0]}", f"data.validation={files[1]}")  # both number their rows r0, r1, ...
    assert_same(one, other)
    assert one.splits.train["row_id"][0].as_py() == "train/r0" and any("120 row ids are in more than one file" in line for line in said)
    table = pq.read_table(write(tmp_path / "rows.parquet"))
    table = table.append_column("split", pa.array(["train", "dev", "test", "train"] * 100))
    pq.write_table(table, tmp_path / "column.parquet", row_group_size=90)
    assert_same(*both(tmp_path, f"data.source={tmp_path / 'column.parquet'}", "data.split.kind=column")[:2])


def test_what_is_refused_is_refused_alike(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.parquet", bad=True)
    twice = pa.concat_tables([pq.read_table(source), pq.read_table(source).slice(20, 1)])
    pq.write_table(twice, tmp_path / "twice.parquet", row_group_size=50)
    for settings in ([f"data.source={source}"], [f"data.source={tmp_path / 'twice.parquet'}", "data.bad_rows=drop"]):
        messages = []
        for how in ("never", "always"):
            with pytest.raises(DataError) as refused:
                prepare(configured(f"data.shards={how}", f"data.shard_dir={tmp_path / 'shards'}", *settings), quiet)
            messages.append(str(refused.value))
        assert messages[0] == messages[1]


def preparation(tmp_path: Path, source: Path) -> Preparation:
    config = configured(f"data.source={source}", f"data.shard_dir={tmp_path / 'shards'}", "data.duplicates=allow")
    return Preparation(config.data, load_tokenizer(encoder_folder()))


def test_made_once_and_again_where_anything_differs(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.parquet")
    first, said = preparation(tmp_path, source), list[str]()
    first.open(said.append, through_ray=False)
    assert any(line.startswith("shards: 400 rows") for line in said)
    again = preparation(tmp_path, source)
    again.open(said.append, through_ray=False)
    assert again.key == first.key and "taken from the shards of" in "".join(said) and "".join(said).count("preparing shards") == 1
    os.utime(source, (1, 1))
    other = preparation(tmp_path, source)
    assert other.key != first.key
    said.clear()
    other.open(said.append, through_ray=False)
    assert any("also holds 1 other shards" in line for line in said)
    assert any("before it changed" in line and line.endswith(f"{tmp_path}/shards/{first.key[:32]}") for line in said)
    preparation(tmp_path / "elsewhere", source).open(said.append, through_ray=False)
    assert sum("other shards" in line for line in said) == 1


def test_a_truncated_shard_is_named_and_made_anew(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.parquet")
    before = preparation(tmp_path, source).open(quiet, through_ray=False)
    folder = Path(before.shards["train"].folder)
    shard = folder / "piece-00002" / "train.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"piece-00002/train.arrow: is truncated or was changed .*; start again"):
        before.shards["train"].table()  # what a worker sees
    said: list[str] = []
    after = preparation(tmp_path, source).open(said.append, through_ray=False)
    assert shard.read_bytes() == whole and "damaged: piece-00002/train.arrow" in "".join(said) and "7 of 8 pieces" in "".join(said)
    assert after.splits.train.equals(before.splits.train) and after.shards == before.shards


def test_a_killed_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "rows.parquet")
    child = os.fork()
    if not child:  # dies in the middle of the fourth piece's file
        calls = iter(range(100))
        add = shards._PartWriter.add

        def dies(self: Any, *given: Any) -> None:
            add(self, *given)
            if next(calls) == 10:
                os._exit(9)

        shards._PartWriter.add = dies  # type: ignore[method-assign]
        preparation(tmp_path, source).open(quiet, through_ray=False)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    said: list[str] = []
    found = preparation(tmp_path, source).open(said.append, through_ray=False)
    assert any("broken off: 3 of 8 pieces are there" in line for line in said)
    assert not list(Path(found.shards["train"].folder).glob(".piece-*"))
    other = preparation(tmp_path / "anew", source).open(quiet, through_ray=False)
    assert found.splits.train.equals(other.splits.train) and found.shards["train"].digest == other.shards["train"].digest


def test_a_source_that_changes_while_it_is_prepared_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "rows.parquet")

    def changed(*given: Any) -> Any:
        write(source, 300)
        return found(*given)

    found = shards.split.noted_split
    monkeypatch.setattr(shards.split, "noted_split", changed)
    with pytest.raises(DataError, match=r"rows.parquet: changed while it was prepared: start again"):
        preparation(tmp_path, source).open(quiet, through_ray=False)


@pytest.mark.slow
def test_a_full_disk_is_said_and_what_is_whole_is_kept(tmp_path: Path) -> None:
    source, disk = write(tmp_path / "rows.parquet", 2000), tmp_path / "disk"
    disk.mkdir()
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom polarity.config import DataConfig\nfrom polarity.data.shards import Preparation\n"
        "from polarity.encoders import load_tokenizer\nfrom polarity.errors import PolarityError\n"
        f"data = DataConfig(source={str(source)!r}, shard_dir=sys.argv[1], duplicates='allow')\n"
        f"made = Preparation(data, load_tokenizer(Path({str(encoder_folder())!r})))\n"
        "try:\n    made.open(print, through_ray=False)\nexcept PolarityError as error:\n    print('REFUSED', error)\n"
    )
    run = f"{sys.executable} {script} $DISK"
    done = shell(f"mount -t tmpfs -o size=600k tmpfs $DISK; {run}; mount -o remount,size=20m $DISK; {run}", disk)
    assert "the disk is full; free some space or set data.shard_dir to a folder with room; the pieces that are whole" in done.stdout, (
        done.stdout + done.stderr
    )
    assert "going on with a preparation that was broken off" in done.stdout and "shards: 2,000 rows" in done.stdout


def tables(config: Config, found: Prepared) -> Tables:
    parts = {name: Corpus.from_table(table, list(config.labels), found.pad_id) for name, table in found.tokens.items()}
    statistics: dict[str, TaskStatistics] = found.ledger.task_statistics
    return Tables(parts["train"], parts["validation"], parts.get("test"), statistics)


def losses(config: Config, folder: Path | None = None, resume: Path | None = None) -> tuple[list[float], float]:
    events = Heard(folder=folder)
    found = tables(config, prepare(config, quiet))
    done = run_training(config, found, fresh_model(config), events, world=World.current(torch.device("cpu")), resume=resume)
    return [row["loss"] for row in done.state.history if row["kind"] == "step"], done.state.best_score


@pytest.mark.slow
def test_training_from_shards_is_training_from_memory(tmp_path: Path) -> None:
    """Points 1 and 2; equal to the bit in one process, by float error on two workers; and resumed after the first epoch."""
    source = write(tmp_path / "rows.parquet", 120)
    given = (f"data.source={source}", "data.oversample.stratified=true", "train.epochs=2", f"data.shard_dir={tmp_path / 'shards'}")
    memory, mapped = (configured(*given, f"data.shards={how}") for how in ("never", "always"))
    kept = tmp_path / "kept"
    kept.mkdir()
    one = losses(memory)
    assert losses(mapped, kept) == one
    assert losses(mapped, resume=kept / "epoch_0001") == one
    two = on_ranks(2, tmp_path / "ranks", losses, mapped)
    np.testing.assert_allclose(two[0], one[0], rtol=2e-5)
    assert two[1] == one[1]


@pytest.mark.usefixtures("ray_cluster")
def test_ray_data_makes_the_same_shards(tmp_path: Path) -> None:
    """With leaks to find and bad rows to leave out; what a task refuses comes as its own words."""
    source = write(tmp_path / "rows.parquet", 200, bad=True, copies=30)
    found = []
    for through_ray in (False, True):
        config = configured(f"data.source={source}", f"data.shard_dir={tmp_path / str(through_ray)}", "data.bad_rows=drop")
        said: list[str] = []
        made = Preparation(config.data, load_tokenizer(encoder_folder())).open(said.append, through_ray=through_ray)
        found.append((made, [line for line in said if "shard" not in line]))
        assert any(("with Ray Data" in line) == through_ray for line in said if "preparing" in line)
    (here, heard), (there, said) = found
    assert said == heard and here.splits.dropped == there.splits.dropped > 0
    assert {name: part.digest for name, part in here.shards.items()} == {name: part.digest for name, part in there.shards.items()}
    assert there.splits.train.equals(here.splits.train) and there.splits.leaks.equals(here.splits.leaks)
    source.write_bytes(source.read_bytes()[:-200] + b"?" * 192 + source.read_bytes()[-8:])
    with pytest.raises(DataError, match=r"rows.parquet: truncated, or not a Parquet file"):
        Preparation(config.data, load_tokenizer(encoder_folder())).open(quiet, through_ray=True)
