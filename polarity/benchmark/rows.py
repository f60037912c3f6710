"""Rows a second and peak memory, each contestant in a process of its own: one epoch's oversampled table from file to file, and loading,
from a tokenized file into padded batches in random order.

A contestant that leaves the machine too little memory is ended, with that as its result. Measures as a module it is such a process:
`python -m polarity.benchmark.rows oversampling METHOD FILE OUT`, or `loading METHOD FOLDER BATCHES`, prints a line of JSON.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polarity.benchmark.timing import MethodFigures, Methods, spread
from polarity.errors import PolarityError, Say, nothing

LABELS = {"sentiment": ["negative", "neutral", "positive"], "polarization": ["non_polarized", "objective", "partisan"]}
STRATA = np.array([673, 128, 3332, 998, 227, 649, 271, 50, 647])
"""Rows of each label combination in the plan's training part, sentiment first."""
_CHUNK, _LOADED = 250_000, 100_000
"""Rows of the made-up files that are in memory at once."""
OVERSAMPLERS = ("polarity", "pyarrow take", "pandas", "imbalanced-learn")
LOADERS = ("polarity", "datasets + DataLoader", "Ray Data")
_BATCH, _POOL = 32, 10_000
_ARROW, _PARQUET = "rows.arrow", "rows.parquet"
_LEAST_FREE = 0.04
"""Share of the machine's memory that must stay free: without any, the system would choose by itself what to kill."""
Measures = dict[str, float]
"""What one process measured: rows, out_rows, seconds and peak_mb."""


def write_rows(path: Path, rows: int, seed: int = 0) -> None:
    """A Parquet file of `rows` made-up comments in the plan's proportions, about 400 bytes of text a row."""
    rng = np.random.default_rng(seed)
    words = pa.array([f"salita{i:04d}" for i in range(2000)], pa.string())
    writer: pq.ParquetWriter | None = None
    try:
        for start in range(0, rows, _CHUNK):
            n = min(_CHUNK, rows - start)
            stratum = rng.choice(len(STRATA), n, p=STRATA / STRATA.sum())
            picked = words.take(pa.array(rng.integers(0, len(words), n * 38)))
            lists = pa.ListArray.from_arrays(pa.array(np.arange(0, n * 38 + 1, 38), pa.int32()), picked)
            table = pa.table(
                {
                    "row_id": pa.array([f"r{i}" for i in range(start, start + n)], pa.large_string()),
                    "Title": pa.array(["a title"] * n, pa.large_string()),
                    "Comment": pc.binary_join(lists, " ").cast(pa.large_string()),
                    "Final Sentiment": pa.array(np.array(LABELS["sentiment"])[stratum // 3]),
                    "Final Polarization": pa.array(np.array(LABELS["polarization"])[stratum % 3]),
                }
            )
            writer = writer or pq.ParquetWriter(path, table.schema, compression="snappy")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def compare_oversampling(rows: int, *, repeats: int, say: Say) -> Methods:
    """{method: {"rows_per_s", "peak_mb", "seconds", "out_rows", "repeats"}}, a peer's with "ratio", how many times as fast as it `polarity`
    is; or {method: {"failed": why}}. Of a file of `rows` rows, written to a file again by each.

    Seconds count from the first read to the last byte, without the start of Python or Ray. Memory is the process's peak; for `polarity`
    that of all processes together, Ray's own among them.
    """
    with tempfile.TemporaryDirectory(prefix="polarity-oversampling-") as folder:
        source = Path(folder) / "rows.parquet"
        write_rows(source, rows)
        out = Path(folder) / "out.parquet"

        def run(method: str) -> Measures | str:
            out.unlink(missing_ok=True)
            return in_process("oversampling", method, str(source), str(out))

        return summaries(OVERSAMPLERS, run, repeats, f"oversampling {rows:,} rows", say)


def summaries(methods: Sequence[str], measured: Callable[[str], Measures | str], repeats: int, what: str, say: Say) -> Methods:
    """{method: its figures over the repeats, or why it failed} of contestants that take turns; `measured` runs one of them."""
    runs: dict[str, list[Measures]] = {method: [] for method in methods}
    failed: dict[str, str] = {}
    for _ in range(repeats):
        for method in methods:
            if method not in failed:
                run = measured(method)
                if isinstance(run, str):
                    failed[method] = run
                else:
                    runs[method].append(run)
    result: Methods = {
        method: {"failed": failed[method]} if method in failed else _summary(runs[method], runs["polarity"]) for method in methods
    }
    for method, entry in result.items():
        say(f"{what}, {method}: {_words(entry)}")
    return result


def _words(entry: MethodFigures) -> str:
    if "failed" in entry:
        return entry["failed"]
    return f"{entry['rows_per_s']['median']:,.0f} rows/s, peak {entry['peak_mb']['median']:,.0f} MB"


def _summary(runs: list[Measures], ours: list[Measures]) -> MethodFigures:
    found: MethodFigures = {
        "seconds": spread([run["seconds"] for run in runs]),
        "peak_mb": spread([run["peak_mb"] for run in runs]),
        "rows_per_s": spread([run["rows"] / run["seconds"] for run in runs]),
        "out_rows": runs[0]["out_rows"],
        "repeats": len(runs),
    }
    if "first_s" in runs[0]:
        found["first_s"] = spread([run["first_s"] for run in runs])
    if runs is not ours and ours:
        found["ratio"] = spread([theirs["seconds"] / mine["seconds"] for theirs, mine in zip(runs, ours, strict=False)])
    return found


def in_process(what: str, method: str, *arguments: str) -> Measures | str:
    """What was measured of a method of `oversampling` or `loading` in a process of its own, or how that ran out of memory. Raises
    PolarityError with its last word for any other failure."""
    command = [sys.executable, "-m", "polarity.benchmark.rows", what, method, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        ended = _until_the_end(process)
    if ended is None:
        return "ended: too little memory left"
    said, errors = ended
    if process.returncode:
        word = errors.strip().splitlines()[-1] if errors.strip() else f"status {process.returncode}"
        raise PolarityError(f"{what} with {method} failed: {word}")
    measured: Measures = json.loads(said.strip().splitlines()[-1])
    return measured


def _until_the_end(process: "subprocess.Popen[str]") -> tuple[str, str] | None:
    """The process's output and errors; None where it had to be ended because little memory was left."""
    while True:
        try:
            return process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if _low_on_memory():
                break
    process.terminate()  # Ray's driver ends its workers, too
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
    return None


def _low_on_memory() -> bool:
    memory = psutil.virtual_memory()
    return bool(memory.available < _LEAST_FREE * memory.total)


def _targets(codes: dict[str, np.ndarray[Any, Any]]) -> tuple[np.ndarray[Any, Any], dict[int, int]]:
    """Stratum of each row, and the rows that each stratum should have: what `polarity` gives under point 2."""
    from polarity.data.oversample import expected_multiplicity, stratum_ids
    from polarity.resolve import resolve

    ids, keys = stratum_ids(codes)
    sizes = np.bincount(ids, minlength=len(keys))
    plan = expected_multiplicity(sizes, keys, resolve(points=[2]).config.data.oversample, LABELS)
    return ids, {i: int(n) for i, n in enumerate(np.asarray(plan.counts))}


def _labels(rows: Any) -> dict[str, np.ndarray[Any, Any]]:
    """{task: codes} of an Arrow table or a pandas frame."""
    columns = {"sentiment": "Final Sentiment", "polarization": "Final Polarization"}
    found = {task: rows[column] if isinstance(rows, pa.Table) else pa.array(rows[column]) for task, column in columns.items()}
    return {task: pc.index_in(labels, pa.array(LABELS[task])).to_numpy() for task, labels in found.items()}


def _positions(rows: Any) -> np.ndarray[Any, Any]:
    ids, targets = _targets(_labels(rows))
    rng = np.random.default_rng(0)
    parts = []
    for stratum, wanted in targets.items():
        members = np.flatnonzero(ids == stratum)
        parts.append(np.concatenate([np.tile(members, wanted // len(members)), rng.choice(members, wanted % len(members), replace=False)]))
    return np.concatenate(parts)


def _polarity(source: Path, out: Path) -> tuple[int, float, float]:
    import ray

    from polarity.data.oversample_file import write_oversampled
    from polarity.resolve import resolve
    from polarity.train.cluster import start_ray

    config = resolve(points=[2]).config
    start_ray(config.cluster, nothing)
    with MemoryOfAll() as memory:
        started = time.perf_counter()
        written = write_oversampled(str(source), config.data, out, seed=0, epoch=0, say=nothing)
        seconds = time.perf_counter() - started
    ray.shutdown()
    return written, seconds, memory.peak_mb


class MemoryOfAll:
    """Inside its context, the greatest sum of this process's memory and its children's, looked at five times a second; what
    they share is counted once (PSS)."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryOfAll":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            here = psutil.Process()
            self.peak_mb = max(self.peak_mb, sum(_pss_mb(process) for process in [here, *here.children(recursive=True)]))


def _pss_mb(process: psutil.Process) -> float:
    """Proportional share of memory in MB, 0 where the process is gone."""
    try:
        return float(process.memory_full_info().pss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def peak_mb() -> float:
    """Peak memory (VmHWM) of this process in MB. (getrusage's would be that of the process that started it.)"""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _take(source: Path, out: Path) -> int:
    table = pq.read_table(source)
    taken = table.take(pa.array(_positions(table)))
    pq.write_table(taken, out, compression="zstd")
    return int(taken.num_rows)


def _pandas(source: Path, out: Path) -> int:
    import pandas as pd

    frame = pd.read_parquet(source)
    taken = frame.iloc[_positions(frame)]
    taken.to_parquet(out, compression="zstd")
    return len(taken)


def _imblearn(source: Path, out: Path) -> int:
    import pandas as pd
    from imblearn.over_sampling import RandomOverSampler

    frame = pd.read_parquet(source)
    ids, targets = _targets(_labels(frame))
    taken, _ = RandomOverSampler(sampling_strategy=targets, random_state=0).fit_resample(frame, ids)
    taken.to_parquet(out, compression="zstd")
    return len(taken)


def _oversample(method: str, source: Path, out: Path) -> Measures:
    """One epoch's table, by a method."""
    rows = pq.ParquetFile(source).metadata.num_rows
    if method == "polarity":
        written, seconds, peak = _polarity(source, out)
    else:
        started = time.perf_counter()
        written = {"pyarrow take": _take, "pandas": _pandas, "imbalanced-learn": _imblearn}[method](source, out)
        seconds = time.perf_counter() - started
        peak = peak_mb()
    return {"rows": rows, "out_rows": written, "seconds": seconds, "peak_mb": peak}


def write_tokens(folder: Path, rows: int) -> None:
    """`rows` made-up tokenized rows of 10 to 60 tokens, as an Arrow file to map and as a Parquet file."""
    rng = np.random.default_rng(0)
    schema = pa.schema(
        [
            ("row_id", pa.large_string()),
            *((task, pa.int8()) for task in LABELS),
            ("input_ids", pa.large_list(pa.int32())),
            ("length", pa.int32()),
        ]
    )
    with pa.ipc.new_file(str(folder / _ARROW), schema) as arrow, pq.ParquetWriter(folder / _PARQUET, schema) as parquet:
        for start in range(0, rows, _LOADED):
            n = min(_LOADED, rows - start)
            lengths = rng.integers(10, 61, n)
            ids = pa.array(rng.integers(5, 30_000, int(lengths.sum()), dtype=np.int32))
            lists = pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)])), ids)
            names = pa.array([f"r{i}" for i in range(start, start + n)], pa.large_string())
            labels = [pa.array(rng.integers(0, len(words), n, dtype=np.int8)) for words in LABELS.values()]
            table = pa.table([names, *labels, lists, pa.array(lengths, pa.int32())], schema=schema)
            arrow.write_table(table)
            parquet.write_table(table)


def compare_loading(rows: int, *, batches: int, repeats: int, say: Say) -> Methods:
    """{method: {"rows_per_s", "seconds", "first_s", "peak_mb", ...}} of `batches` batches of 32 rows; see `compare_oversampling`.

    `first_s` are the seconds to the first batch, in which `polarity` draws up the plan of the whole epoch: oversampled, in an order that no
    file order changes, with rows of like lengths side by side. The peers shuffle (Ray Data within 10,000 rows) and pad.
    """
    with tempfile.TemporaryDirectory(prefix="polarity-loading-") as name:
        write_tokens(Path(name), rows)

        def run(method: str) -> Measures | str:
            return in_process("loading", method, name, str(batches))

        return summaries(LOADERS, run, repeats, f"loading from {rows:,} rows", say)


def _our_batches(folder: Path) -> Iterator[Any]:
    import torch

    from polarity.data.batch import Corpus, global_batches
    from polarity.resolve import resolve

    config = resolve(points=[2], sets=[f"train.global_batch_size={_BATCH}", f"train.micro_batch_size={_BATCH}"]).config
    table = pa.ipc.open_file(pa.memory_map(str(folder / _ARROW))).read_all()
    corpus = Corpus.from_table(table, list(LABELS), 0)
    for rows in global_batches(corpus, config, 0):
        batch = corpus.collate(rows)
        yield torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)


def _padded(lists: list[Any]) -> Any:
    import torch

    ids = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(np.asarray(row)) for row in lists], batch_first=True)
    return ids.long(), (ids != 0).long()


def _dataloader_batches(folder: Path) -> Iterator[Any]:
    import datasets
    import torch
    from torch.utils.data import DataLoader

    table = pa.ipc.open_file(pa.memory_map(str(folder / _ARROW))).read_all()
    rows = datasets.Dataset(datasets.table.InMemoryTable(table)).with_format("numpy", columns=["input_ids"])
    order = torch.Generator().manual_seed(0)
    loader: Any = DataLoader(
        rows,
        batch_size=_BATCH,
        shuffle=True,
        generator=order,
        collate_fn=lambda found: _padded([row["input_ids"] for row in found]),
    )
    yield from loader


def _ray_batches(folder: Path) -> Iterator[Any]:
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
        batch_size=_BATCH, collate_fn=Collate(), local_shuffle_buffer_size=_POOL, local_shuffle_seed=0, device="cpu"
    )


def _load(method: str, folder: Path, batches: int) -> Measures:
    """So many batches, by a method."""
    if method == "Ray Data":
        from polarity.resolve import resolve
        from polarity.train.cluster import start_ray

        start_ray(resolve().config.cluster, nothing)
    started, first, rows = time.perf_counter(), 0.0, 0
    with MemoryOfAll() as memory:
        stream = {"polarity": _our_batches, "datasets + DataLoader": _dataloader_batches, "Ray Data": _ray_batches}[method](folder)
        for batch in islice(stream, batches + 1):
            if not first:  # the first batch waits for the plan, or for the first blocks
                first, started = time.perf_counter() - started, time.perf_counter()
                continue
            rows += len(batch[0])
    seconds = time.perf_counter() - started
    peak = max(memory.peak_mb, 0.0 if method == "Ray Data" else peak_mb())
    return {"rows": rows, "out_rows": rows, "seconds": seconds, "first_s": first, "peak_mb": peak}


if __name__ == "__main__":
    of, by, place, more = sys.argv[1:]
    print(json.dumps(_oversample(by, Path(place), Path(more)) if of == "oversampling" else _load(by, Path(place), int(more))))
