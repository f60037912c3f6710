"""Loading: rows a second from a tokenized file into padded batches in random order, and peak memory; each in a process of its own.

Run as a module it is such a process: `python -m polarity.benchmark.loading METHOD FOLDER BATCHES` prints a line of JSON.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polarity.benchmark.oversampling import LABELS, MemoryOfAll, in_process, peak_mb, summaries
from polarity.benchmark.timing import Methods

METHODS = ("polarity", "datasets + DataLoader", "Ray Data")
BATCH, POOL, CHUNK = 32, 10_000, 100_000
_ARROW, _PARQUET = "rows.arrow", "rows.parquet"


def write_tokens(folder: Path, rows: int, seed: int = 0) -> None:
    """`rows` made-up tokenized rows of 10 to 60 tokens, as an Arrow file to map and as a Parquet file."""
    rng = np.random.default_rng(seed)
    schema = pa.schema(
        [
            ("row_id", pa.large_string()),
            *((task, pa.int8()) for task in LABELS),
            ("input_ids", pa.large_list(pa.int32())),
            ("length", pa.int32()),
        ]
    )
    with pa.ipc.new_file(str(folder / _ARROW), schema) as arrow, pq.ParquetWriter(folder / _PARQUET, schema) as parquet:
        for start in range(0, rows, CHUNK):
            n = min(CHUNK, rows - start)
            lengths = rng.integers(10, 61, n)
            ids = pa.array(rng.integers(5, 30_000, int(lengths.sum()), dtype=np.int32))
            lists = pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)])), ids)
            names = pa.array([f"r{i}" for i in range(start, start + n)], pa.large_string())
            labels = [pa.array(rng.integers(0, len(words), n, dtype=np.int8)) for words in LABELS.values()]
            table = pa.table([names, *labels, lists, pa.array(lengths, pa.int32())], schema=schema)
            arrow.write_table(table)
            parquet.write_table(table)


def compare_loading(rows: int, *, batches: int, repeats: int, say: Callable[[str], None]) -> Methods:
    """{method: {"rows_per_s", "seconds", "first_s", "peak_mb", ...}} of `batches` batches of 32 rows; see `compare` of oversampling.

    `first_s` are the seconds to the first batch, in which `polarity` draws up the plan of the whole epoch: oversampled, in an order that no
    file order changes, with rows of like lengths side by side. The peers shuffle (Ray Data within 10,000 rows) and pad.
    """
    with tempfile.TemporaryDirectory(prefix="polarity-loading-") as name:
        write_tokens(Path(name), rows)

        def run(method: str) -> Any:
            return in_process("polarity.benchmark.loading", method, name, str(batches))

        return summaries(METHODS, run, repeats, f"loading from {rows:,} rows", say)


def _polarity(folder: Path) -> Iterator[Any]:
    import torch

    from polarity.data.batch import Corpus, global_batches
    from polarity.resolve import resolve

    config = resolve(points=[2], sets=[f"train.global_batch_size={BATCH}", f"train.micro_batch_size={BATCH}"]).config
    table = pa.ipc.open_file(pa.memory_map(str(folder / _ARROW))).read_all()
    corpus = Corpus.from_table(table, list(LABELS), 0)
    for rows in global_batches(corpus, config, 0):
        batch = corpus.collate(rows)
        yield torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)


def _padded(lists: list[Any]) -> Any:
    import torch

    ids = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(np.asarray(row)) for row in lists], batch_first=True)
    return ids.long(), (ids != 0).long()


def _datasets(folder: Path) -> Iterator[Any]:
    import datasets
    import torch
    from torch.utils.data import DataLoader

    table = pa.ipc.open_file(pa.memory_map(str(folder / _ARROW))).read_all()
    rows = datasets.Dataset(datasets.table.InMemoryTable(table)).with_format("numpy", columns=["input_ids"])
    order = torch.Generator().manual_seed(0)
    loader: Any = DataLoader(
        rows,
        batch_size=BATCH,
        shuffle=True,
        generator=order,
        collate_fn=lambda found: _padded([row["input_ids"] for row in found]),
    )
    yield from loader


def _ray(folder: Path) -> Iterator[Any]:
    import ray
    from ray.data.collate_fn import ArrowBatchCollateFn

    from polarity.data.datasource import quiet_console

    class Collate(ArrowBatchCollateFn):
        """Ray's own way to batches of its own making: lists of several lengths are no tensor."""

        def __call__(self, batch: pa.Table) -> Any:
            return _padded([row.values.to_numpy() for row in batch["input_ids"]])

    data = ray.data.read_parquet(str(folder / _PARQUET), columns=["input_ids"])
    quiet_console()
    yield from data.iter_torch_batches(
        batch_size=BATCH, collate_fn=Collate(), local_shuffle_buffer_size=POOL, local_shuffle_seed=0, device="cpu"
    )


def _main(method: str, folder: Path, batches: int) -> None:
    if method == "Ray Data":
        from polarity.resolve import resolve
        from polarity.train.cluster import start_ray

        start_ray(resolve().config.cluster, lambda line: None)
    started, first, rows = time.perf_counter(), 0.0, 0
    with MemoryOfAll() as memory:
        stream = {"polarity": _polarity, "datasets + DataLoader": _datasets, "Ray Data": _ray}[method](folder)
        for batch in islice(stream, batches + 1):
            if not first:  # the first batch waits for the plan, or for the first blocks
                first, started = time.perf_counter() - started, time.perf_counter()
                continue
            rows += len(batch[0])
    seconds = time.perf_counter() - started
    peak = max(memory.peak_mb, 0.0 if method == "Ray Data" else peak_mb())
    print(json.dumps({"rows": rows, "out_rows": rows, "seconds": seconds, "first_s": first, "peak_mb": peak}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
