import numpy as np
import pyarrow as pa
import pytest

from polarity.errors import DataError
from polarity.evaluate import build_predictions, check_predictions, probability_column
from polarity.evaluate.predictions import task_codes

LABELS = {"mood": ["bad", "good"], "topic": ["a", "b", "c"]}


def comments(rows: int = 3) -> pa.Table:
    return pa.table(
        {
            "row_id": pa.array([f"r{i}" for i in range(rows)], pa.large_string()),
            "title": pa.array(["t"] * rows, pa.large_string()),
            "comment": pa.array(["c"] * rows, pa.large_string()),
            "mood": pa.array([1, None, 0][:rows], pa.int8()),
            "topic": pa.array([2, 0, None][:rows], pa.int8()),
        }
    )


def probabilities() -> dict[str, np.ndarray]:
    return {"mood": np.array([[0.4, 0.6], [0.9, 0.1], [0.5, 0.5]]), "topic": np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.2, 0.6, 0.2]])}


def test_labels_predictions_and_probabilities_stand_beside_the_row_id() -> None:
    table = build_predictions("test", comments(), probabilities(), LABELS)
    assert table.column_names == [
        *("split", "row_id", "title", "mood_label", "mood_prediction", "mood_p_bad", "mood_p_good"),
        *("topic_label", "topic_prediction", "topic_p_a", "topic_p_b", "topic_p_c"),
    ]
    assert table["mood_label"].to_pylist() == ["good", None, "bad"]
    assert table["mood_prediction"].to_pylist() == ["good", "bad", "bad"]
    assert table["topic_prediction"].to_pylist() == ["c", "a", "b"]
    assert table["topic_p_b"].type == pa.float32()
    assert table["topic_p_b"].to_pylist() == pytest.approx([0.2, 0.1, 0.6])
    assert set(table["split"].to_pylist()) == {"test"}


def test_a_vote_may_differ_from_the_largest_probability() -> None:
    table = build_predictions("test", comments(), probabilities(), LABELS, {"mood": np.array([0, 0, 1])})
    assert table["mood_prediction"].to_pylist() == ["bad", "bad", "good"]
    assert table["topic_prediction"].to_pylist() == ["c", "a", "b"]


def test_comments_without_label_columns_have_null_labels() -> None:
    table = build_predictions("test", comments().drop_columns(["mood"]), probabilities(), LABELS)
    assert table["mood_label"].null_count == 3


def test_a_row_is_judged_once_in_a_split_but_splits_may_number_alike() -> None:
    one = build_predictions("validation", comments(), probabilities(), LABELS)
    two = build_predictions("test", comments(), probabilities(), LABELS)
    check_predictions(pa.concat_tables([one, two]), LABELS)
    with pytest.raises(DataError, match=r"'row_id' holds rows twice: 'r0' \(test\).*"):
        check_predictions(pa.concat_tables([two, two.slice(0, 1)]), LABELS)


@pytest.mark.parametrize("value", [float("nan"), None, float("inf"), -0.1, 1.5])
def test_something_that_is_no_probability_is_refused_with_its_row(value: float | None) -> None:
    table = build_predictions("test", comments(), probabilities(), LABELS)
    name = probability_column("mood", "good")
    broken = table.set_column(table.column_names.index(name), name, pa.array([0.5, value, 0.5], pa.float32()))
    with pytest.raises(DataError, match=r"column 'mood_p_good'.* row_id 'r1'"):
        check_predictions(broken, LABELS)


@pytest.mark.parametrize(("name", "values"), [("mood_label", ["good", "worst", None]), ("mood_prediction", ["good", None, "bad"])])
def test_unknown_labels_and_missing_predictions_are_refused_with_their_row(name: str, values: list[str | None]) -> None:
    table = build_predictions("test", comments(), probabilities(), LABELS)
    broken = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    with pytest.raises(DataError, match=rf"column '{name}' holds something other than bad, good, row_id 'r1'"):
        check_predictions(broken, LABELS)


def test_a_missing_column_is_named_with_the_nearest_one() -> None:
    table = build_predictions("test", comments(), probabilities(), LABELS).rename_columns({"mood_prediction": "mood_predicted"})
    with pytest.raises(DataError, match=r"no column 'mood_prediction' .*'mood_predicted'"):
        check_predictions(table, LABELS)


def test_probabilities_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"probabilities of mood have shape \(3, 3\), expected \(3, 2\)"):
        build_predictions("test", comments(), {**probabilities(), "mood": np.ones((3, 3)) / 3}, LABELS)


def test_other_arrow_string_types_judge_the_same() -> None:
    table = build_predictions("test", comments(), probabilities(), LABELS)
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        other = table
        for name in ("mood_label", "mood_prediction"):
            other = other.set_column(other.column_names.index(name), name, other[name].cast(kind))
        check_predictions(other, LABELS)
        for one, same in zip(task_codes(table, "mood", LABELS["mood"]), task_codes(other, "mood", LABELS["mood"]), strict=True):
            assert one.tolist() == same.tolist()
