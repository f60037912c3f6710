"""A run folder made by a real tiny training, on comments and titles that are hostile HTML, for the tests of this folder."""

import csv
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from polarity.resolve import resolve
from polarity.workflows.train import train
from tests.tiny import COLUMNS, DEFAULT_TASKS, tiny_comments, tiny_encoder

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)> </p></style> & \"quoted\" {{ 7 * 7 }}"
HOSTILE_TITLE = "<b onmouseover=alert(2)>title</b>"
SETTINGS = ["train.precision=fp32", "train.resamples=100", "train.log_every=50", "train.epochs=2", "cluster.workers=0"]


def write_csv(path: Path, rows: int) -> Path:
    """The tiny comments, each with the hostile text behind it, under one title, which so has rows enough for a slice."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "Title", "Comment", *COLUMNS.values()])
        for row in tiny_comments(rows, missing=0.1, titles=1).to_pylist():
            labels = ["" if row[task] is None else DEFAULT_TASKS[task][row[task]] for task in COLUMNS]
            writer.writerow([row["row_id"], f"{row['title']} {HOSTILE_TITLE}", f"{row['comment']} {HOSTILE}", *labels])
    return path


@cache
def trained_run() -> Path:
    """The folder of the run, made once, in the tests' own home; beside it `comments.csv`. Copy it before changing anything."""
    home = Path(tempfile.mkdtemp(prefix="report-", dir=os.environ["HOME"]))
    data = write_csv(home / "comments.csv", 240)
    encoder = tiny_encoder(home / "encoder", "bert", hidden=16, layers=1)
    options = {"data.source": (str(data), "--data"), "model.encoder": (str(encoder), "--encoder")}
    config = resolve("small", options=options, sets=SETTINGS).config
    train(config, str(home / "run"), say=lambda line: None)
    # What training writes last, and what these tests are about.
    for made in ("report.html", "model/README.md", "model/calibration.json"):
        (home / "run" / made).unlink()
    return home / "run"


def copied_run(target: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained_run(), target))
