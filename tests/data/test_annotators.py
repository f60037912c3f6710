"""Several annotators: their votes become labels, soft targets and agreement, whether a column is an annotator or a class."""

import csv
import json
from pathlib import Path

import krippendorff
import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from polarity.config import DataConfig, TaskConfig
from polarity.data.annotators import of_classes, taught, votes_of
from polarity.data.batch import soft_column
from polarity.data.read import read_comments
from polarity.errors import DataError
from polarity.evaluate.agreement import agreement, error_of_labels, nominal_alpha
from tests.tiny import tiny_comments
from tests.trained import trained_run, training_file

CLASSES = ["negative", "neutral", "positive"]
ROWS = [("negative", "negative", "positive"), ("neutral", "", "neutral"), ("positive", "neutral", ""), ("", "", "positive"), ("", "", "")]


def config(**task: object) -> DataConfig:
    tasks = {"sentiment": {"labels": CLASSES, **task}}
    return DataConfig.model_validate({"tasks": tasks, "bad_rows": "drop", "split": {"kind": "joint"}})


def written(path: Path, header: list[str], rows: list[tuple[str, ...]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "Title", "Comment", *header])
        writer.writerows([f"r{number}", "a title", f"comment {number}", *row] for number, row in enumerate(rows))
    return str(path)


@pytest.mark.parametrize("seed", range(8))
def test_alpha_is_that_of_the_annotators_own_table(seed: int) -> None:
    """Through votes it is what krippendorff gives of the table an annotator a row, with gaps; a class's own is that of yes and no."""
    rng = np.random.default_rng(seed)
    table_AN = rng.integers(0, 3, (rng.integers(2, 6), 60)).astype(float)
    table_AN[1:] = np.where(rng.random(table_AN[1:].shape) < 0.6, table_AN[0], table_AN[1:])
    table_AN[rng.random(table_AN.shape) < 0.4] = np.nan
    classes = [pa.array(row, pa.float64(), from_pandas=True).cast(pa.int8()) for row in table_AN]
    found = agreement(of_classes(classes, TaskConfig(column="x", labels=CLASSES)), CLASSES)
    assert found["alpha"] == pytest.approx(krippendorff.alpha(table_AN, level_of_measurement="nominal"), abs=1e-12)
    for index, name in enumerate(CLASSES):
        own_AN = np.where(np.isnan(table_AN), np.nan, table_AN == index)
        assert found["alpha_by_class"][name] == pytest.approx(krippendorff.alpha(own_AN, level_of_measurement="nominal"), abs=1e-12)


def test_agreement_by_hand() -> None:
    """Three rows of two votes, one of them disputed: D_o = 2/6, D_e = 2*2*4/(6*5), alpha = 1 - 0.333/0.533 = 0.375."""
    votes = np.array([[2, 0], [0, 2], [0, 2]])
    assert nominal_alpha(votes) == pytest.approx(1.0)
    votes = np.array([[1, 1], [0, 2], [2, 0], [0, 1]])
    found = agreement(votes, ["a", "b"])
    assert (found["rows"], found["shared"], found["disputed"], found["ties"]) == (4, 3, 1, 1)
    assert found["alpha"] == pytest.approx(1 - (2 / 6) / (2 * 3 * 3 / 30))
    assert found["one_against_rest"] == pytest.approx(4 / 6)
    assert nominal_alpha(np.array([[1, 0], [0, 1]])) is None and nominal_alpha(np.array([[2, 0], [3, 0]])) is None
    errors = error_of_labels(np.array([[2, 1], [3, 0], [0, 1], [1, 1]]), np.array([0, 0, 1, -1]), np.array([1, 1, 0, 0]))
    assert errors == {"rows": 2, "errors": 2, "disputed": 1, "errors_disputed": 1, "errors_voted": 1}


def test_columns_of_annotators_and_of_counts_read_the_same(tmp_path: Path) -> None:
    several, counted = config(annotators=["a1", "a2", "a3"]), config(counts=["neg", "neu", "pos"])
    votes = [tuple(str(row.count(name)) if row.count(name) else "" for name in CLASSES) for row in ROWS]
    tables = [
        read_comments(written(tmp_path / "a.csv", ["a1", "a2", "a3"], ROWS), several, say=lambda _: None),
        read_comments(written(tmp_path / "c.csv", ["neg", "neu", "pos"], votes), counted, say=lambda _: None),
    ]
    assert tables[0].equals(tables[1])
    assert tables[0]["sentiment"].to_pylist() == [0, 1, None, 2]  # the third is a tie; the fifth has no label and is left out
    assert votes_of(tables[0], "sentiment").tolist() == [[2, 0, 1], [0, 2, 0], [0, 1, 1], [0, 0, 1]]
    soft = taught(tables[0], config(annotators=["a1", "a2"], soft=True).tasks)
    np.testing.assert_allclose(soft[soft_column("sentiment")].to_pylist(), [[2 / 3, 0, 1 / 3], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]])
    assert soft["sentiment"].to_pylist()[:2] == [0, 1] and soft["sentiment"][2].as_py() in (1, 2)
    assert taught(tables[0], several.tasks).column_names == ["row_id", "title", "comment", "sentiment"]


@pytest.mark.parametrize(
    ("header", "rows", "task", "message"),
    [
        (["a1", "a2"], [("negative", ""), ("", "neutral")], {"annotators": ["a1", "a2"]}, "'a1', 'a2' share no row: put them into one"),
        (["a1", "a2"], [("negative", "bad")], {"annotators": ["a1", "a2"]}, "column 'a2' holds 'bad'"),
        (["a1", "a2"], [("negative", "")], {"annotators": ["a1", "a3"]}, r"no column 'a3'.*data\.tasks\.sentiment\.annotators"),
        (["n", "o", "p"], [("1", "x", "")], {"counts": ["n", "o", "p"]}, "column 'o' holds 'x': give a whole number of votes"),
        (["n", "o", "p"], [("1", "-1", "")], {"counts": ["n", "o", "p"]}, "column 'o' holds '-1'"),
    ],
)
def test_bad_votes_are_said_in_a_line(
    header: list[str], rows: list[tuple[str, ...]], task: dict[str, object], message: str, tmp_path: Path
) -> None:  # fmt: skip
    data = config(**task).model_copy(update={"bad_rows": "error"})
    with pytest.raises(DataError, match=message) as found:
        read_comments(written(tmp_path / "x.csv", header, rows), data, say=lambda _: None)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"annotators": ["a"]}, "at least 2 columns"),
        ({"counts": ["a", "b"]}, "a column for each of the 3 labels"),
        ({"annotators": ["a", "b"], "counts": ["a", "b", "c"]}, "not both"),
        ({"column": "a", "soft": True}, "soft needs several annotators"),
        ({"annotators": ["a", "Title"]}, "named twice"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(task: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**task)


def test_a_run_says_how_much_of_its_error_is_the_labels_own(tmp_path: Path) -> None:
    """Three annotators who err on a third of the rows; the training aims at their shares and the report has both tables."""
    rng = np.random.default_rng(0)
    table = tiny_comments(300, seed=3, missing=0.0)
    truth = table["sentiment"].to_numpy()
    said = [np.where(rng.random(300) < 0.7, truth, rng.integers(0, 3, 300)) for _ in range(3)]
    rows = [tuple(CLASSES[code] for code in row) for row in np.stack(said, axis=1)]
    path = tmp_path / "votes.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["Title", "Comment", "a1", "a2", "a3"], *([t, c, *row] for t, c, row in zip(
            table["title"].to_pylist(), table["comment"].to_pylist(), rows, strict=True))])  # fmt: skip
    task = "{annotators: [a1, a2, a3], labels: [negative, neutral, positive], soft: true}"
    sets = (
        f"data.source={path}",
        f"data.tasks.sentiment={task}",
        "data.tasks.polarization=null",
        "train.epochs=1",
        "loss.task_weights=null",
    )
    run = trained_run(tmp_path / "run", sets=sets)
    found = json.loads((run / "agreement.json").read_text())["tasks"]["sentiment"]
    assert found["rows"] == 300 and found["votes"] == 900 and found["soft"] and 0 < found["ties"] < found["disputed"]
    matrix = np.stack(said).astype(float)
    assert found["alpha"] == pytest.approx(krippendorff.alpha(matrix, level_of_measurement="nominal"), abs=1e-9)
    errors, judged = found["errors"]["test"], json.loads((run / "metrics.json").read_text())["test"]["tasks"]["sentiment"]
    assert errors["errors"] == round((1 - judged["accuracy"]) * errors["rows"]) and 0 < errors["errors_voted"] <= errors["errors_disputed"]
    page = (run / "report.html").read_text()
    assert "Agreement of the annotators" in page and f"{found['alpha']:.3f}" in page and training_file().exists()
