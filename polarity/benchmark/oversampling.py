"""Oversampling: rows a second and peak memory of one epoch's table, each contestant in a process of its own.

Run as a module it is such a process: `python -m polarity.benchmark.oversampling METHOD FILE OUT` prints a line of JSON.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polarity.benchmark.timing import Spread
from polarity.errors import PolarityError

LABELS = {"sentiment": ["negative", "neutral", "positive"], "polarization": ["non_polarized", "objective", "partisan"]}
STRATA = np.array([673, 128, 3332, 998, 227, 649, 271, 50, 647])
"""Rows of each label combination in the plan's training part, sentiment first."""
_CHUNK = 250_000
METHODS = ("polarity", "pyarrow take", "pandas", "imbalanced-learn")


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


def compare(rows: int, *, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """{method: {"rows_per_s", "peak_mb", "seconds", "out_rows"}} for a file of `rows` rows, written to a file again by each.

    Seconds count from the first read to the last byte, without the start of Python or Ray; memory is the process's whole peak,
    for `polarity` that of the largest Ray process.
    """
    with tempfile.TemporaryDirectory(prefix="polarity-oversampling-") as folder:
        source = Path(folder) / "rows.parquet"
        write_rows(source, rows)
        found: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
        for _ in range(repeats):
            for method in METHODS:
                found[method].append(_in_process(method, source, Path(folder) / "out.parquet"))
        result = {method: _summary(runs) for method, runs in found.items()}
        for method, entry in result.items():
            speed, peak = entry["rows_per_s"]["median"], entry["peak_mb"]["median"]
            say(f"oversampling {rows:,} rows, {method}: {speed:,.0f} rows/s, peak {peak:,.0f} MB")
        return result


def _summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    spread = {key: Spread.of([run[key] for run in runs]).to_json() for key in ("seconds", "peak_mb")}
    return {
        **spread,
        "rows_per_s": Spread.of([run["rows"] / run["seconds"] for run in runs]).to_json(),
        "out_rows": runs[0]["out_rows"],
        "repeats": len(runs),
    }


def _in_process(method: str, source: Path, out: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "polarity.benchmark.oversampling", method, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    out.unlink(missing_ok=True)
    if done.returncode:
        raise PolarityError(
            f"oversampling with {method} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no word'}"
        )
    measured: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


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
    from polarity.data.oversample_file import write_oversampled
    from polarity.resolve import resolve
    from polarity.train.cluster import start_ray

    config = resolve(points=[2]).config
    start_ray(config.cluster, lambda line: None)
    started = time.perf_counter()
    written = write_oversampled(str(source), config.data, out, seed=0, epoch=0, say=lambda line: None)
    seconds = time.perf_counter() - started
    import ray

    peak = _ray_peak_mb()
    ray.shutdown()
    return written, seconds, peak


def _peak_mb(process: str = "self") -> float:
    """Peak memory (VmHWM) of a process in MB, 0 where it is gone. (getrusage's would be that of the process that started it.)"""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), default=0.0)


def _ray_peak_mb() -> float:
    """The greatest peak of this session's Ray workers and of this process, in MB."""
    import psutil

    return max([_peak_mb(), *(_peak_mb(str(child.pid)) for child in psutil.Process().children(recursive=True))])


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
        peak = _peak_mb()
    print(json.dumps({"rows": rows, "out_rows": written, "seconds": seconds, "peak_mb": peak}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
