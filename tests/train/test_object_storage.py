"""Data, shards, run folder and checkpoints on object storage: moto's server stands in for S3, and gives the numbers of a local disk."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from moto.server import DomainDispatcherApplication, ThreadedMotoServer, create_backend_app
from werkzeug.serving import make_server

from polarity.artifacts import HISTORY, PREDICTIONS, RunFolder
from polarity.data.formats import open_source
from polarity.data.read import read_comments
from polarity.errors import DataError
from polarity.resolve import dump_config
from polarity.workflows.train import train
from tests.data.test_shards import write
from tests.observe import configured
from tests.tiny import tiny_csv

DIES = """
import os, sys
from polarity.resolve import parse_config
from polarity.train.worker import RunEvents
from polarity.workflows.train import train
save = RunEvents.save
def dies(self, name, write):
    save(self, name, write)
    os._exit(9)
RunEvents.save = dies
train(parse_config(open(sys.argv[1]).read(), "the test"), sys.argv[2])
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[pafs.FileSystem]:
    """A bucket named `bucket` on a local server, which every process of the test finds by its environment."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    place = f"127.0.0.1:{server.get_host_and_port()[1]}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ENDPOINT_URL": f"http://{place}",
            "ACCESS_KEY_ID": "k",
            "SECRET_ACCESS_KEY": "s",
            "DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        filesystem = pafs.S3FileSystem(allow_bucket_creation=True, endpoint_override=place, scheme="http", region="us-east-1")
        filesystem.create_dir("bucket")
        yield filesystem
    server.stop()


def put(bucket: pafs.FileSystem, path: Path) -> str:
    with bucket.open_output_stream(f"bucket/{path.name}") as stream:
        stream.write(path.read_bytes())
    return f"s3://bucket/{path.name}"


@pytest.mark.usefixtures("small_cache")
def test_files_are_read_where_they_lie(bucket: pafs.FileSystem, tmp_path: Path) -> None:
    data = configured().data
    for path in (write(tmp_path / "rows.parquet", 120), tiny_csv(tmp_path / "rows.csv", 120)):
        assert read_comments(put(bucket, path), data).equals(read_comments(str(path), data))
    with pytest.raises(DataError, match=r"s3://bucket/none.csv: no such file"):
        open_source("s3://bucket/none.csv")


@pytest.mark.usefixtures("small_cache")
def test_requests_that_fail_are_sent_again(bucket: pafs.FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that is busy two times of three."""
    local, numbers, failed = write(tmp_path / "rows.parquet", 60), itertools.count(), 0
    uri, application = put(bucket, local), DomainDispatcherApplication(create_backend_app)

    def flaky(environ: dict[str, Any], start: Any) -> Any:
        nonlocal failed
        if next(numbers) % 3:
            failed += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Slow Down", [("Content-Length", "0")])
            return []
        return application(environ, start)

    server = make_server("127.0.0.1", 0, flaky, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    data = configured().data
    assert read_comments(uri, data).equals(read_comments(str(local), data))
    folder = RunFolder.at("s3://bucket/flaky")
    folder.write_text("said.txt", "all of it")
    assert folder.read_bytes("said.txt") == b"all of it" and failed > 6
    server.shutdown()


@pytest.fixture
def small_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's cache of the test's own: what is copied from the storage must not be there already."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("small_cache")
def test_a_run_on_object_storage_is_killed_and_resumed(bucket: pafs.FileSystem, tmp_path: Path) -> None:
    """It ends with the losses and predictions of an undisturbed run on a local disk."""
    local = write(tmp_path / "rows.parquet", 120)
    given = ("train.epochs=3", "train.resamples=100", "cluster.workers=0", "data.shards=always")
    train(configured(*given, f"data.source={local}", f"data.shard_dir={tmp_path / 'shards'}"), str(tmp_path / "run"), say=lambda _: None)
    config = configured(*given, f"data.source={put(bucket, local)}", "data.shard_dir=s3://bucket/shards")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    died = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path / "config.yaml"), "s3://bucket/run"], capture_output=True, text=True, check=False
    )
    assert died.returncode == 9, died.stdout + died.stderr
    said: list[str] = []
    train(config, "s3://bucket/run", resume=True, say=said.append)
    assert any("taken from the shards" in line for line in said) and any("resumed after epoch" in line for line in said)
    here, there = RunFolder.open(tmp_path / "run"), RunFolder.open("s3://bucket/run")
    assert there.read_parquet(PREDICTIONS).equals(here.read_parquet(PREDICTIONS))
    losses = [[row["loss"] for row in folder.read_parquet(HISTORY).to_pylist() if row["kind"] == "step"] for folder in (here, there)]
    assert losses[0] == losses[1] and len(losses[0]) > 6
