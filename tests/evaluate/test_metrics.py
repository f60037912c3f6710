import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from judged import PLAN, judged
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from sklearn.metrics import confusion_matrix as sklearn_confusion

from polarity.errors import DataError
from polarity.evaluate import evaluate_split
from polarity.evaluate.metrics import class_scores, confusion_matrix, macro_f1
from polarity.evaluate.render import render_metrics


def test_one_matrix_worked_by_hand() -> None:
    scores = class_scores(np.array([[3, 1, 0], [1, 2, 0], [1, 0, 0]]))
    assert scores.precision.tolist() == pytest.approx([3 / 5, 2 / 3, 0])
    assert scores.recall.tolist() == pytest.approx([3 / 4, 2 / 3, 0])
    assert scores.f1.tolist() == pytest.approx([6 / 9, 4 / 6, 0])
    assert scores.support.tolist() == [4, 3, 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [1, 3, 40, 500])
def test_equal_to_scikit_learn_also_where_classes_are_absent(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.choice(4, rows, p=[0.6, 0.3, 0.1, 0.0]), rng.choice(4, rows, p=[0.7, 0.0, 0.2, 0.1])
    confusion = confusion_matrix(labels, predicted, 4)
    assert (confusion == sklearn_confusion(labels, predicted, labels=range(4))).all()
    scores = class_scores(confusion)
    expected = precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=0)
    for ours, theirs in zip((scores.precision, scores.recall, scores.f1, scores.support), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert macro_f1(confusion) == pytest.approx(expected[2].mean())


def test_leading_dimensions_are_resamples() -> None:
    many = np.random.default_rng(0).integers(0, 9, (5, 3, 3))
    np.testing.assert_allclose(macro_f1(many), [macro_f1(one) for one in many])


def test_a_missing_label_leaves_the_row_out_of_that_task_only() -> None:
    table = judged(400, missing=0.3)
    split = evaluate_split(table, PLAN, resamples=100, by_title=False)
    for task in PLAN:
        known = [(t, p) for t, p in zip(table[f"{task}_label"].to_pylist(), table[f"{task}_prediction"].to_pylist(), strict=True) if t]
        true, predicted = zip(*known, strict=True)
        f1 = precision_recall_fscore_support(true, predicted, labels=PLAN[task], zero_division=0)[2]
        scores = split["tasks"][task]
        assert scores["labelled"] == len(known) < 400 == split["rows"]
        assert scores["macro_f1"] == pytest.approx(f1.mean())
        assert scores["accuracy"] == pytest.approx(accuracy_score(true, predicted))
        assert [scores["per_class"][c]["f1"] for c in PLAN[task]] == pytest.approx(f1.tolist())
        assert scores["confusion"] == sklearn_confusion(true, predicted, labels=PLAN[task]).tolist()
        assert scores["weakest_class"]["f1"] == pytest.approx(f1.min())
    assert split["overall"]["macro_f1"] == pytest.approx(np.mean([split["tasks"][task]["macro_f1"] for task in PLAN]))


def test_row_order_changes_nothing() -> None:
    table = judged(200, missing=0.1)
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(200)))
    one, other = (evaluate_split(t, PLAN, resamples=200, by_title=False, with_slices=False) for t in (table, shuffled))
    assert one == other


def test_a_task_without_any_label_cannot_be_judged() -> None:
    table = judged(20)
    empty = table.set_column(table.column_names.index("sentiment_label"), "sentiment_label", pa.nulls(20, pa.string()))
    with pytest.raises(DataError, match="no row has a label of task 'sentiment'"):
        evaluate_split(empty, PLAN, resamples=100, by_title=False)
    with pytest.raises(DataError, match="no rows to judge"):
        evaluate_split(table.slice(0, 0), PLAN, resamples=100, by_title=False)


def test_a_class_without_rows_is_left_out_of_macro_f1_with_a_note() -> None:
    """Every sentiment right on a file without positives is 1, not two thirds."""
    table = judged(300)
    rows = table.filter(pc.fill_null(pc.not_equal(table["sentiment_label"], "positive"), False))
    found = evaluate_split(rows, PLAN, resamples=200, by_title=False)
    truth, said = rows["sentiment_label"].to_pylist(), rows["sentiment_prediction"].to_pylist()
    expected = f1_score(truth, said, labels=["negative", "neutral"], average="macro", zero_division=0)
    assert found["tasks"]["sentiment"]["macro_f1"] == pytest.approx(expected)
    assert found["tasks"]["sentiment"]["absent_classes"] == ["positive"] and "absent_classes" not in found["tasks"]["polarization"]
    low, high = found["tasks"]["sentiment"]["ci95"]
    assert low < expected < high
    assert found["tasks"]["sentiment"]["weakest_class"]["label"] != "positive"
    assert found["overall"]["macro_f1"] == pytest.approx(
        np.mean([found["tasks"][task]["macro_f1"] for task in ("sentiment", "polarization")])
    )
    text = render_metrics({"schema_version": 1, "test": found})
    assert "no row of sentiment is positive" in text and "no such rows" in text
