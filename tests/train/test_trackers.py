"""What the trackers keep is what the run's own history says, read back with each tool's own reader; and none of it touches the run."""

import json
import math
import os
import resource
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from polarity.artifacts import CONFIG, RunFolder
from polarity.cli import main
from polarity.config import Config
from polarity.errors import ConfigError
from polarity.resolve import resolve
from polarity.train.checkpoints import fingerprint
from polarity.train.control import HistoryRow
from polarity.train.trackers import Named, TrackedRun, flattened, running, scalars, trackers_of
from tests.tiny import tiny_csv, tiny_encoder
from tests.train.runs import configured, tables
from tests.trained import trained_run

Curves = dict[str, list[tuple[int, float]]]
OFF = "tracking.tensorboard=false"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent anywhere."""
    for name, value in {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_API_KEY", "WANDB_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def config(*sets: str) -> Config:
    return resolve("small", sets=sets).config


def new_folder(place: Path) -> RunFolder:
    folder = RunFolder.create(place)
    folder.write_text(CONFIG, "data: {}\n")
    return folder


def open_trackers(config: Config, folder: RunFolder, *, say: Callable[[str], None]) -> AbstractContextManager[Callable[[HistoryRow], None]]:
    return running(trackers_of(config, folder, say), say=say)


def until(holds: Callable[[], bool]) -> None:
    """Wait for what a tracker does in its own thread."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def step(number: int, loss: float = 1.0) -> HistoryRow:
    return {"kind": "step", "epoch": 1, "step": number, "loss": loss, "lr": 1e-4, "rows_per_s": 50.0, "epochs_left": 0.5}


def epoch(number: int, at: int, overall: float) -> HistoryRow:
    return {"kind": "epoch", "epoch": number, "step": at, "loss": 0.8, "validation_overall": overall, "seconds": 2.0}


def read_tensorboard(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_curves_of_a_row() -> None:
    row: dict[str, Any] = {**step(3), "loss_mood": 0.5, "padded_share": 0.1, "grad_norm": None}
    assert scalars(row) == {
        "train/loss": 1.0, "train/lr": 1e-4, "train/loss_mood": 0.5, "speed/rows_per_s": 50.0, "speed/padded_share": 0.1,
    }  # fmt: skip
    more = {"validation_mood": 0.6, "validation_seconds": 9.0, "f1/mood/so/so?": 0.4}
    assert scalars({**epoch(1, 3, 0.7), **more}) == {
        "epoch/loss": 0.8, "epoch/seconds": 2.0, "epoch/validation_seconds": 9.0, "validation/macro_f1_overall": 0.7,
        "validation/macro_f1_mood": 0.6, "validation/f1/mood/so_so_": 0.4,
    }  # fmt: skip


def test_settings_are_flat_and_classes_are_no_keys() -> None:
    found = flattened(config("data.tasks={mood: {column: M, labels: ['bad?', 'good=']}}", "data.split.stratify=mood"))
    assert found["optim.lr"] == config().optim.lr and found["data.max_title"] is not None
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz_.") for name in found)
    assert '"good="' in found["data.tasks"]


@pytest.mark.slow
def test_a_run_is_tracked_by_default_with_the_numbers_of_its_history(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", sets=("train.log_every=5",))
    history = pq.read_table(run / "history.parquet").to_pylist()
    curves = read_tensorboard(run)
    steps = [row for row in history if row["kind"] == "step" and row["step"] % 5 == 0]
    epochs = [row for row in history if row["kind"] == "epoch"]
    assert len(steps) > 3 and len(epochs) == 3
    for tag, rows, column in (
        ("train/loss", steps, "loss"), ("train/lr", steps, "lr"), ("train/grad_norm", steps, "grad_norm"),
        ("train/loss_sentiment", steps, "loss_sentiment"), ("validation/macro_f1_overall", epochs, "validation_overall"),
        ("validation/macro_f1_polarization", epochs, "validation_polarization"), ("epoch/loss", epochs, "loss"),
    ):  # fmt: skip
        assert [at for at, _ in curves[tag]] == [row["step"] for row in rows], tag
        assert [value for _, value in curves[tag]] == pytest.approx([row[column] for row in rows], rel=1e-6), tag
    assert all(value > 0 for _, value in curves["speed/tokens_per_s"]) and len(curves["speed/padded_share"]) == len(steps)


@pytest.mark.slow
def test_all_trackers_at_once_change_nothing_of_the_run(tmp_path: Path) -> None:
    mlflow, _ = pytest.importorskip("mlflow"), pytest.importorskip("wandb")
    plain = trained_run(tmp_path / "plain")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sets = (f"tracking.mlflow={uri}", "tracking.mlflow_experiment=comments", "tracking.wandb=comments", OFF)
    tracked = trained_run(tmp_path / "tracked", sets=sets)
    for name in ("model/model.safetensors", "predictions.parquet"):
        assert (tracked / name).read_bytes() == (plain / name).read_bytes(), name
    assert not (tracked / "tensorboard").exists() and len(list((plain / "tensorboard").iterdir())) == 1

    history = [row for row in pq.read_table(tracked / "history.parquet").to_pylist() if row["kind"] == "epoch"]
    scores = [(row["step"], row["validation_overall"]) for row in history]
    client = mlflow.MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("comments").experiment_id])
    assert [(run.info.run_name, run.info.status) for run in found] == [("run0", "FINISHED")]
    measured = client.get_metric_history(found[0].info.run_id, "validation/macro_f1_overall")
    assert sorted((m.step, m.value) for m in measured) == scores
    assert found[0].data.params["optim.lr"] == "0.003" and "encoder" in found[0].data.tags
    assert not [name for name in found[0].data.params if name.startswith("tracking.")]
    rows = offline_rows(tracked)
    assert [(row["_step"], row["validation/macro_f1_overall"]) for row in rows if "validation/macro_f1_overall" in row] == scores


def offline_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of the history of an offline run of W&B, from the file that `wandb sync` uploads."""
    from wandb.proto.wandb_internal_pb2 import Record as Entry

    rows: list[dict[str, Any]] = []
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for data in leveldb_log(path.read_bytes()):
            entry = Entry()
            entry.ParseFromString(data)
            if entry.HasField("history"):
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in entry.history.item})
    return rows


def leveldb_log(content: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format after W&B's seven bytes: pieces of (crc32 4, length 2, kind 1), in blocks of 32 KiB."""
    assert content.startswith(b":W&B")
    at, whole = 7, b""
    while at < len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


def test_a_resumed_run_goes_on_with_its_curves(tmp_path: Path) -> None:
    """Killed after step 8 with a checkpoint of step 4: steps 5 to 8 are taken again, and must not be there twice."""
    folder = new_folder(tmp_path / "run")
    with open_trackers(config(), folder, say=print) as watch:
        for number in (2, 4):
            watch(step(number, loss=number))
        watch(epoch(1, 4, 0.5))
        for number in (6, 8):
            watch(step(number, loss=-1.0))
    with open_trackers(config(), folder, say=print) as watch:
        for number in (6, 8, 10):
            watch(step(number, loss=number))
        watch(epoch(2, 10, 0.6))
    curves = read_tensorboard(tmp_path / "run")
    assert curves["train/loss"] == [(number, float(number)) for number in (2, 4, 6, 8, 10)]
    assert curves["validation/macro_f1_overall"] == [(4, pytest.approx(0.5)), (10, pytest.approx(0.6))]


def test_mlflow_goes_on_with_the_same_run_and_says_how_it_ended(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    folder, uri = new_folder(tmp_path / "run"), f"sqlite:///{tmp_path}/mlflow.db"
    chosen = config(OFF, f"tracking.mlflow={uri}")
    client, said = mlflow.MlflowClient(uri), list[str]()

    def status() -> list[str]:
        return [run.info.status for run in client.search_runs([client.get_experiment_by_name("polarity").experiment_id])]

    with pytest.raises(ZeroDivisionError), open_trackers(chosen, folder, say=said.append) as watch:
        watch(step(1, loss=math.nan))
        watch(step(2))
        raise ZeroDivisionError
    assert status() == ["FAILED"]
    # What may differ in a resumed run is no reason to fail: MLflow refuses another value of a parameter.
    with open_trackers(config(OFF, f"tracking.mlflow={uri}", "cluster.workers=2"), folder, say=said.append) as watch:
        watch(step(3))
        watch({**epoch(1, 3, 0.5), "f1/mood/../so\u00f1?": 0.5})
        until(lambda: status() == ["RUNNING"])
    assert status() == ["FINISHED"]
    known = TrackedRun.of(chosen, folder).known_id("mlflow")
    history = client.get_metric_history(known, "train/loss")
    assert [m.step for m in history] == [1, 2, 3] and [line for line in said if "failed" in line] == []


def test_wandb_goes_on_with_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder, said = new_folder(tmp_path / "run"), list[str]()
    for first in (1, 3):
        with open_trackers(config(OFF, "tracking.wandb=comments"), folder, say=said.append) as watch:
            watch(step(first))
            watch(step(first + 1))
        time.sleep(1.1)  # W&B names its folders by the second
    known = TrackedRun.of(config(), folder).known_id("wandb")
    starts = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(starts) == 2 and all(path.name.endswith(f"-{known}") for path in starts)
    assert [row["_step"] for row in offline_rows(tmp_path / "run")] == [1, 2, 3, 4]
    assert all("offline" in line for line in said) and len(said) == 2


def test_what_fails_is_said_once_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder, said = new_folder(tmp_path / "run"), list[str]()
    begun = time.monotonic()
    with open_trackers(config("tracking.mlflow=http://127.0.0.1:9"), folder, say=said.append) as watch:
        watch(step(1))
        watch(epoch(1, 1, 0.5))
    assert len(said) == 1 and said[0].startswith("MLflow failed") and "127.0.0.1" in said[0], said
    assert read_tensorboard(tmp_path / "run")["train/loss"] == [(1, 1.0)] and time.monotonic() - begun < 30


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_events_is_said_once(tmp_path: Path) -> None:
    folder, said = new_folder(tmp_path / "run"), list[str]()
    with open_trackers(config(), folder, say=said.append) as watch:
        watch(step(1))
        with small_files(1000):
            for number in range(2, 40):
                watch(step(number))
            until(lambda: bool(said))
    assert len(said) == 1 and said[0].startswith("TensorBoard failed") and "goes on" in said[0]
    (tmp_path / "run" / "tensorboard").rename(tmp_path / "run" / "before")
    (tmp_path / "run" / "tensorboard").write_text("mine")
    with open_trackers(config(), folder, say=said.append) as watch:
        watch(step(1))
    assert len(said) == 2 and "exists" in said[1]


def test_a_remote_run_gets_its_files_after_each_epoch(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = RunFolder("there://runs/first", pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "runs/first")
    assert folder.local is None
    for start in (0, 1):
        with open_trackers(config("tracking.wandb=comments") if start else config(), folder, say=print) as watch:
            watch(step(2 * start + 1))
            assert len(folder.list("tensorboard")) == start
            watch(epoch(start + 1, 2 * start + 1, 0.5))
            until(lambda: len(folder.list("tensorboard")) == start + 1)  # noqa: B023
            watch(step(2 * start + 2))
    assert [at for at, _ in read_tensorboard(tmp_path / "runs" / "first")["train/loss"]] == [1, 2, 3, 4]
    assert [row["_step"] for row in offline_rows(tmp_path / "runs" / "first")] == [3, 4]


def test_checkpoints_do_not_depend_on_tracking() -> None:
    plain, tracked = configured(), configured(tracking={"tensorboard": False, "mlflow": "sqlite:///mlflow.db", "wandb": "comments"})
    corpora = (tables(plain).train, tables(plain).validation)
    assert plain != tracked and fingerprint(plain, corpora, "") == fingerprint(tracked, corpora, "")


class Broken:
    """A tracker that fails, or hangs, at the row that it is told to."""

    def __init__(self, at: int, error: Exception | None) -> None:
        self.at, self.error, self.seen, self.never = at, error, list[int](), threading.Event()

    def log(self, record: HistoryRow, at: float) -> None:
        self.seen.append(int(record["step"] or 0))
        if self.seen[-1] == self.at:
            if self.error is None:
                self.never.wait(60)
            else:
                raise self.error

    def close(self, finished: bool) -> None:
        self.seen.append(-1)


@pytest.mark.parametrize("error", [KeyError("a defect"), MemoryError("no room"), RuntimeError("of a library")])
def test_whatever_an_observer_raises_ends_nothing_and_is_said_once(error: Exception) -> None:
    broken, well, said = Broken(2, error), Broken(-5, None), list[str]()
    with running([Named("Bad", lambda: broken), Named("Good", lambda: well)], say=said.append) as log:
        for number in range(1, 6):
            log(step(number))
    assert broken.seen == [1, 2] and well.seen == [1, 2, 3, 4, 5, -1]
    assert len(said) == 1 and said[0].startswith("Bad failed and is given up") and str(error) in said[0]


def test_an_observer_that_does_not_start_is_said() -> None:
    said = list[str]()

    def start() -> Broken:
        raise ImportError("no such library")

    with running([Named("Absent", start)], say=said.append) as log:
        log(step(1))
    assert len(said) == 1 and "no such library" in said[0]


def test_an_observer_that_hangs_delays_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polarity.train.trackers.WAIT_S", 0.3)
    hanging, said = Broken(1, None), list[str]()
    with running([Named("Silent", lambda: hanging)], say=said.append) as log:
        begun = time.monotonic()
        for number in range(1, 100):
            log(step(number))
        assert time.monotonic() - begun < 1.0
    assert hanging.seen == [1] and said == [line for line in said if line.startswith("Silent does not answer")] != []
    hanging.never.set()


@pytest.mark.parametrize(
    "uri", ["http://me:secret1@host:5000", "https://secret1@host", "postgresql://me:secret1@host/db", "mysql+pymysql://:secret1@host/db"]
)
def test_secrets_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_USERNAME") as refused:
        config(f"tracking.mlflow={uri}")
    assert "secret1" not in str(refused.value)


def test_what_is_no_secret_is_taken() -> None:
    for uri in ("http://host:5000", "sqlite:///runs/mlflow.db", "postgresql://me@host/db", "databricks"):
        assert config(f"tracking.mlflow={uri}").tracking.mlflow == uri
    with pytest.raises(ConfigError, match=r"tracking\.wandb"):
        config("tracking.wandb=team/comments")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_csv(folder / "comments.csv", 160)
    return ["--encoder", str(tiny_encoder(folder / "encoder", "bert", hidden=16)), "--data", str(folder / "comments.csv")]


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["polarity", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_missing_extra_is_said_before_anything_is_written(
    name: str, more: list[str], inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    options = ["--preset", "small", "--workers", "0", "--run-dir", str(tmp_path / "run"), "--set", f"tracking.{name}=something"]
    assert call(["train", *inputs, *options, *more], monkeypatch) == 2
    assert f'pip install "polarity[{name}]"' in capsys.readouterr().err and not (tmp_path / "run").exists()


SMALL = ["--preset", "small", "--epochs", "1"]
SMALL += [part for name in ("train.precision=fp32", "train.resamples=100", "train.log_every=2") for part in ("--set", name)]


@pytest.mark.slow
def test_without_trackers_nothing_of_them_is_written(inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(["train", *inputs, *SMALL, "--set", OFF, "--workers", "0", "--run-dir", str(tmp_path / "off")], monkeypatch) == 0
    assert (tmp_path / "off" / "metrics.json").exists()
    assert not (tmp_path / "off" / "tensorboard").exists() and not (tmp_path / "off" / "trackers.json").exists()


def test_libraries_are_imported_when_they_are_used() -> None:
    script = "import sys, polarity.workflows.train; print(*({'tensorboardX', 'mlflow', 'wandb', 'torch'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
