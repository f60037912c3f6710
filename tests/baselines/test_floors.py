import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from polarity.arrays import Floats
from polarity.artifacts import mapped_table
from polarity.baselines.floors import draw_rows, fit_linear, fit_title_prior, floors, majority
from polarity.errors import DataError, Say
from polarity.evaluate import evaluate_split
from polarity.evaluate.predictions import Labels

LABELS = {"mood": ["bad", "fair", "good"], "side": ["left", "right"]}
WORDS = [["bulok", "mali"], ["siguro", "ewan"], ["galing", "mabuti"]]


def comments(rows: int, seed: int = 0, *, titles: bool = True, missing: float = 0.1) -> pa.Table:
    """Comments whose words give the mood away, and titles that give the side away."""
    rng = np.random.default_rng(seed)
    mood, side = rng.choice(3, rows, p=[0.5, 0.3, 0.2]), rng.integers(0, 2, rows)
    texts = [f"{WORDS[m][rng.integers(2)]} ang {rng.choice(['bayan', 'daan', 'presyo'])}" for m in mood]
    names = [f"post {2 * int(rng.integers(3)) + s}" if titles else "" for s in side]
    return pa.table(
        {
            "row_id": pa.array([f"r{i}" for i in range(rows)], pa.large_string()),
            "title": pa.array(names, pa.large_string()),
            "comment": pa.array(texts, pa.large_string()),
            "mood": pa.array(mood.astype(np.int8), pa.int8(), mask=rng.random(rows) < missing),
            "side": pa.array(side.astype(np.int8), pa.int8(), mask=rng.random(rows) < missing),
        }
    )


def small(moods: list[int | None], titles: list[str], texts: list[str] | None = None) -> pa.Table:
    rows = len(moods)
    return pa.table(
        {
            "row_id": pa.array([f"r{i}" for i in range(rows)], pa.large_string()),
            "title": pa.array(titles, pa.large_string()),
            "comment": pa.array(texts or ["hay"] * rows, pa.large_string()),
            "mood": pa.array(moods, pa.int8()),
        }
    )


MOOD = {"mood": LABELS["mood"]}


def linear(train: pa.Table, held_out: pa.Table, labels: Labels, *, say: Say) -> dict[str, Floats]:
    return fit_linear(train, labels, say=say).probabilities(held_out)


def test_majority_gives_every_row_the_training_shares() -> None:
    train = small([0, 0, 2, None], ["a"] * 4)
    held_out = small([2, 2], ["a", "b"])
    assert majority(train, held_out, MOOD)["mood"].tolist() == pytest.approx(np.array([[2 / 3, 0, 1 / 3]] * 2))


def test_title_only_by_hand_and_the_prior_for_an_unseen_title() -> None:
    train = small([0, 0, 1, 2, 2, None], ["a", "a", "a", "b", "b", "b"])
    held_out = small([0, 0, 0], ["a", "b", "new"])
    prior = np.array([2, 1, 2]) / 5
    expected = [(np.array([2, 1, 0]) + prior) / 4, (np.array([0, 0, 2]) + prior) / 3, prior]
    np.testing.assert_allclose(fit_title_prior(train, MOOD).probabilities(held_out)["mood"], expected)


def test_linear_is_the_stated_recipe() -> None:
    train, held_out = comments(200), comments(60, seed=1)
    vectorizers = [
        (TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), "comment"),
        (TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=3, sublinear_tf=True), "comment"),
        (TfidfVectorizer(), "title"),
    ]
    x = np.hstack([v.fit_transform(train[c].to_pylist()).toarray() for v, c in vectorizers])
    new = np.hstack([v.transform(held_out[c].to_pylist()).toarray() for v, c in vectorizers])
    said: list[str] = []
    found = linear(train, held_out, LABELS, say=said.append)
    for task in LABELS:
        y = train[task].to_pylist()
        known = [i for i, label in enumerate(y) if label is not None]
        model = LogisticRegression(C=3, class_weight="balanced", max_iter=1000).fit(x[known], [y[i] for i in known])
        np.testing.assert_allclose(found[task], model.predict_proba(new), atol=1e-3)
    assert said == []


def test_linear_beats_title_and_title_beats_majority_where_they_should() -> None:
    found = floors(comments(300), {"validation": comments(200, seed=1), "test": comments(150, seed=2)}, LABELS, say=pytest.fail)
    assert list(found) == ["validation", "test"]
    for split, rows in (("validation", 200), ("test", 150)):
        assert list(found[split]) == ["majority", "title", "linear"]
        scores = {n: evaluate_split(t, LABELS, resamples=100, by_title=False)["tasks"] for n, t in found[split].items()}
        assert found[split]["linear"].num_rows == rows
        assert scores["linear"]["mood"]["macro_f1"] > 0.95 > scores["majority"]["mood"]["macro_f1"]
        assert scores["title"]["side"]["macro_f1"] > 0.95 > scores["majority"]["side"]["macro_f1"]


def test_without_titles_there_is_no_title_floor() -> None:
    said: list[str] = []
    found = floors(comments(100, titles=False), {"test": comments(50, seed=1, titles=False)}, LABELS, say=said.append)
    assert list(found["test"]) == ["majority", "linear"]
    assert said == []


def test_held_out_labels_change_no_prediction() -> None:
    train, held_out = comments(100), comments(50, seed=1)
    blank = held_out.set_column(3, "mood", pa.nulls(50, pa.int8()))
    for one, other in zip(*(floors(train, {"test": t}, LABELS, say=pytest.fail)["test"].values() for t in (held_out, blank)), strict=True):
        assert one["mood_prediction"].equals(other["mood_prediction"])


def test_few_rows_lower_min_df_and_say_so() -> None:
    said: list[str] = []
    train = small([0, 1, 2], ["", "", ""], ["abc", "xyz", "qrs"])
    found = linear(train, small([0], [""], ["abc"]), MOOD, say=said.append)
    assert found["mood"].argmax() == 0
    assert len(said) == 2
    assert all("min_df is 1" in line for line in said)


def test_punctuation_alone_still_fits_on_characters() -> None:
    said: list[str] = []
    train = small([0, 1, 0, 1, 0, 1], [""] * 6, ["!!!", "???"] * 3)
    assert linear(train, train, MOOD, say=said.append)["mood"].argmax(axis=1).tolist() == [0, 1] * 3
    assert said == ["linear baseline: the training rows hold no words of the comment, left out"]


def test_one_class_is_predicted_for_all_and_said() -> None:
    said: list[str] = []
    train = small([1, 1, 1, None], ["a"] * 4)
    assert linear(train, train, MOOD, say=said.append)["mood"].tolist() == [[0, 1, 0]] * 4
    assert any("one class of mood only" in line for line in said)


def test_a_class_without_a_training_row_has_probability_zero() -> None:
    train = small([0, 2, 0, 2], ["a"] * 4, ["abc", "xyz"] * 2)
    found = linear(train, train, MOOD, say=lambda _: None)["mood"]
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_a_task_without_labels_is_refused() -> None:
    train = small([None, None], ["a", "b"])
    with pytest.raises(DataError, match="no training row has a label of task 'mood'"):
        floors(train, {"test": small([0], ["a"])}, MOOD, say=lambda _: None)


def test_the_linear_floor_of_many_rows_is_fitted_on_a_sample_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    train, held_out, said = comments(400), comments(70, 1), list[str]()
    whole = linear(train, held_out, LABELS, say=said.append)
    assert not said
    module = sys.modules[fit_linear.__module__]  # the room has a function of that name
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 32)  # blocks change nothing
    assert all(np.array_equal(whole[task], again) for task, again in linear(train, held_out, LABELS, say=said.append).items())
    monkeypatch.setattr(module, "MOST_ROWS", 100)
    rows = np.sort(np.random.default_rng(0).choice(400, 100, replace=False))
    sampled = linear(train, held_out, LABELS, say=said.append)
    assert said == ["linear baseline: fitted on a random sample of 100 of the 400 training rows"]
    expected = linear(train.take(pa.array(rows)), held_out, LABELS, say=said.append)
    assert all(np.array_equal(expected[task], sampled[task]) for task in LABELS)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="counts memory as Linux tells it")
def test_rows_drawn_from_mapped_files_leave_nothing_else_in_memory(tmp_path: Path) -> None:
    """The linear floor of many rows draws some from all over them; their neighbours are given back."""

    def mapped_mb() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("Pss_File:"))) // 1024

    batch = pa.record_batch({"comment": [f"{i:06d}" + "salita " * 200 for i in range(5_000)]})
    path = tmp_path / "rows.arrow"
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        for _ in range(12):
            writer.write_batch(batch)
    table = mapped_table(path)
    drawn = np.arange(0, table.num_rows, 7)
    before = mapped_mb()
    found = draw_rows(table, drawn)
    assert mapped_mb() < before + 20, "80 MB were looked at"
    assert found["comment"].to_pylist() == [f"{i % 5_000:06d}" + "salita " * 200 for i in drawn]
    assert table["comment"][59_999].as_py().startswith("004999")  # what was given back is read again
