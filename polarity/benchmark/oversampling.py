"""Oversampling: rows a second and peak memory of one epoch's table, each contestant in a process of its own.

A contestant that leaves the machine too little memory is ended, with that as its result. Run as a module it is such a process:
`python -m polarity.benchmark.oversampling METHOD FILE OUT` prints a line of JSON.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polarity.benchmark.timing import MethodFigures, Methods, Spread, SpreadFigures
from polarity.errors import PolarityError

LABELS = {"sentiment": ["negative", "neutral", "positive"], "polarization": ["non_polarized", "objective", "partisan"]}
STRATA = np.array([673, 128, 3332, 998, 227, 649, 271, 50, 647])
"""Rows of each label combination in the plan's training part, sentiment first."""
_CHUNK = 250_000
METHODS = ("polarity", "pyarrow take", "pandas", "imbalanced-learn")
_LEAST_FREE = 0.04
"""Share of the machine's memory that must stay free: without any, the system would choose by itself what to kill."""
Run = dict[str, float]
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


def compare(rows: int, *, repeats: int, say: Callable[[str], None]) -> Methods:
    """{method: {"rows_per_s", "peak_mb", "seconds", "out_rows", "repeats"}}, a peer's with "ratio", how many times as fast as it `polarity`
    is; or {method: {"failed": why}}. Of a file of `rows` rows, written to a file again by each.

    Seconds count from the first read to the last byte, without the start of Python or Ray. Memory is the process's peak; for `polarity`
    that of all processes together, Ray's own among them.
    """
    with tempfile.TemporaryDirectory(prefix="polarity-oversampling-") as folder:
        source = Path(folder) / "rows.parquet"
        write_rows(source, rows)
        out = Path(folder) / "out.parquet"
        return summaries(METHODS, lambda method: _in_process(method, source, out), repeats, f"oversampling {rows:,} rows", say)


def summaries(methods: Sequence[str], measured: Callable[[str], Run | str], repeats: int, what: str, say: Callable[[str], None]) -> Methods:
    """{method: its figures over the repeats, or why it failed} of contestants that take turns; `measured` runs one of them."""
    runs: dict[str, list[Run]] = {method: [] for method in methods}
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


def _summary(runs: list[Run], ours: list[Run]) -> MethodFigures:
    found: MethodFigures = {}
    if "seconds" in runs[0]:
        found["seconds"] = _spread_of(runs, "seconds")
    if "peak_mb" in runs[0]:
        found["peak_mb"] = _spread_of(runs, "peak_mb")
    if "first_s" in runs[0]:
        found["first_s"] = _spread_of(runs, "first_s")
    if runs is not ours and ours:
        found["ratio"] = Spread.of([theirs["seconds"] / mine["seconds"] for theirs, mine in zip(runs, ours, strict=False)]).to_json()
    found["rows_per_s"] = Spread.of([run["rows"] / run["seconds"] for run in runs]).to_json()
    found["out_rows"], found["repeats"] = runs[0]["out_rows"], len(runs)
    return found


def _spread_of(runs: list[Run], key: str) -> SpreadFigures:
    return Spread.of([run[key] for run in runs]).to_json()


def _in_process(method: str, source: Path, out: Path) -> Run | str:
    found = in_process("polarity.benchmark.oversampling", method, str(source), str(out))
    out.unlink(missing_ok=True)
    return found


def in_process(module: str, method: str, *arguments: str) -> Run | str:
    """What the module measured of the method in a process of its own, or how that ran out of memory. Raises PolarityError with its last
    word for any other failure."""
    command = [sys.executable, "-m", module, method, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        ended = _until_the_end(process)
    if ended is None:
        return "ended: too little memory left"
    said, errors = ended
    if process.returncode:
        word = errors.strip().splitlines()[-1] if errors.strip() else f"status {process.returncode}"
        raise PolarityError(f"{module.rpartition('.')[2]} with {method} failed: {word}")
    measured: Run = json.loads(said.strip().splitlines()[-1])
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


def _labels(table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    columns = {"sentiment": "Final Sentiment", "polarization": "Final Polarization"}
    return {t: pc.index_in(table[c], pa.array(LABELS[t])).to_numpy() for t, c in columns.items()}


def _positions(table: pa.Table) -> np.ndarray[Any, Any]:
    ids, targets = _targets(_labels(table))
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
    start_ray(config.cluster, lambda line: None)
    with MemoryOfAll() as memory:
        started = time.perf_counter()
        written = write_oversampled(str(source), config.data, out, seed=0, epoch=0, say=lambda line: None)
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
    table = pa.table({c: frame[c] for c in ("Final Sentiment", "Final Polarization")})
    taken = frame.iloc[_positions(table)]
    taken.to_parquet(out, compression="zstd")
    return len(taken)


def _imblearn(source: Path, out: Path) -> int:
    import pandas as pd
    from imblearn.over_sampling import RandomOverSampler

    frame = pd.read_parquet(source)
    table = pa.table({c: frame[c] for c in ("Final Sentiment", "Final Polarization")})
    ids, targets = _targets(_labels(table))
    taken, _ = RandomOverSampler(sampling_strategy=targets, random_state=0).fit_resample(frame, ids)
    taken.to_parquet(out, compression="zstd")
    return len(taken)


def _main(method: str, source: Path, out: Path) -> None:
    rows = pq.ParquetFile(source).metadata.num_rows
    if method == "polarity":
        written, seconds, peak = _polarity(source, out)
    else:
        started = time.perf_counter()
        written = {"pyarrow take": _take, "pandas": _pandas, "imbalanced-learn": _imblearn}[method](source, out)
        seconds = time.perf_counter() - started
        peak = peak_mb()
    print(json.dumps({"rows": rows, "out_rows": written, "seconds": seconds, "peak_mb": peak}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
