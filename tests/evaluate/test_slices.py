import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from judged import PLAN, judged
from sklearn.metrics import f1_score

from polarity.evaluate.slices import shorten, slices


def test_titles_with_enough_rows_by_size_equal_to_scikit_learn() -> None:
    table = judged(200, titles=6, missing=0.05)
    counts = {t: table["title"].to_pylist().count(t) for t in set(table["title"].to_pylist())}
    bound = sorted(counts.values())[2]
    found = slices(table, PLAN, resamples=100, min_rows=bound)["title"]
    assert [s["rows"] for s in found] == sorted((c for c in counts.values() if c >= bound), reverse=True)
    for part in found:
        rows = table.filter(pc.equal(table["title"], part["title"]))
        for task in PLAN:
            labelled = rows.filter(pc.is_valid(rows[f"{task}_label"]))
            truth, said = labelled[f"{task}_label"].to_pylist(), labelled[f"{task}_prediction"].to_pylist()
            expected = f1_score(truth, said, labels=sorted(set(truth)), average="macro", zero_division=0)
            assert part["tasks"][task]["macro_f1"] == pytest.approx(expected)
            low, high = part["tasks"][task]["ci95"]
            assert low < part["tasks"][task]["macro_f1"] < high


def test_at_most_so_many_titles() -> None:
    assert len(slices(judged(200, titles=9), PLAN, resamples=100, min_rows=1, max_titles=4)["title"]) == 4


def test_each_task_within_the_classes_of_the_other() -> None:
    table = judged(300)
    found = slices(table, PLAN, resamples=100)["within"]
    named = {(s["task"], *s["within"].items()): s for s in found}
    assert len(named) == 6
    objective = named["sentiment", ("polarization", "objective")]
    rows = table.filter(pc.equal(table["polarization_label"], "objective"))
    expected = f1_score(rows["sentiment_label"].to_pylist(), rows["sentiment_prediction"].to_pylist(), average="macro", zero_division=0)
    assert objective["macro_f1"] == pytest.approx(expected)
    assert objective["labelled"] == rows.num_rows


def test_one_task_has_no_slices_within_another_and_an_unlabelled_task_none() -> None:
    single = {"sentiment": PLAN["sentiment"]}
    assert slices(judged(50, labels=single), single, resamples=100)["within"] == []
    table = judged(50, titles=1)
    empty = table.set_column(table.column_names.index("sentiment_label"), "sentiment_label", pa.nulls(50, pa.string()))
    found = slices(empty, PLAN, resamples=100)
    assert list(found["title"][0]["tasks"]) == ["polarization"]
    assert found["within"] == []


def test_a_slice_with_one_class_right_is_perfect() -> None:
    single = {"sentiment": PLAN["sentiment"]}
    table = judged(40, labels=single, titles=1)
    same = pa.array(np.repeat("negative", 40))
    for name in ("sentiment_label", "sentiment_prediction"):
        table = table.set_column(table.column_names.index(name), name, same)
    assert slices(table, single, resamples=100)["title"][0]["tasks"]["sentiment"]["macro_f1"] == 1.0


@pytest.mark.parametrize(
    ("title", "expected"), [("short", "short"), ("two\n lines", "two lines"), ("x" * 60, "x" * 60), ("x" * 61, "x" * 59 + "…")]
)
def test_long_titles_are_cut(title: str, expected: str) -> None:
    assert shorten(title) == expected
