"""The fused model is logistic regression on features and each title's copies of them, saved and read again to the bit."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import hstack
from sklearn.linear_model import LogisticRegression

from polarity.baselines import vectors as fused
from polarity.baselines.floors import label_codes
from polarity.baselines.vectors import FEWEST_OF_TITLE, JITTER, STRENGTH, FusedModel, fit_fused
from polarity.errors import RunError
from tests.tiny import DEFAULT_TASKS, tiny_comments


def _vectors(comments: pa.Table, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(comments.num_rows, 6)).astype(np.float32)


def _fit(comments: pa.Table) -> FusedModel:
    codes = {task: label_codes(comments, task) for task in DEFAULT_TASKS}
    return fit_fused(comments, _vectors(comments), codes, DEFAULT_TASKS, say=lambda _: None)


def test_it_is_logistic_regression_on_features_with_a_copy_for_each_title() -> None:
    train, other = tiny_comments(150, missing=0.0), tiny_comments(60, seed=1)
    model = _fit(train)
    found = model.probabilities(other, _vectors(other, 1))

    def explicit(comments: pa.Table, vectors: np.ndarray, rows: bool) -> np.ndarray:
        both = hstack(
            [fused._terms(model.texts, comments), fused._scaled(vectors, model.numbers["mean"], model.numbers["scale"])]
        ).toarray()
        titles = comments["title"].to_numpy().astype(str)
        copies = [both * (titles == title)[:, None] for title in model.titles]
        whole = np.concatenate([both, *copies], axis=1)
        jitter = np.sqrt(JITTER * (whole**2).sum(axis=1).mean()) * np.eye(len(whole)) if rows else np.zeros((len(whole), train.num_rows))
        return np.concatenate([whole, jitter], axis=1)

    assert len(model.titles) == 5
    for task in DEFAULT_TASKS:
        plain = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000, tol=1e-6)
        plain.fit(explicit(train, _vectors(train), True), label_codes(train, task))
        np.testing.assert_allclose(found[task], plain.predict_proba(explicit(other, _vectors(other, 1), False)), atol=0.01)


def test_what_is_saved_scores_as_before_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    train, other = tiny_comments(120), tiny_comments(40, seed=2, titles=5)
    model = _fit(train)
    model.save(tmp_path)
    read = FusedModel.load(tmp_path)
    first, second = (one.probabilities(other, _vectors(other)) for one in (model, read))
    for task in DEFAULT_TASKS:
        np.testing.assert_array_equal(first[task], second[task])
    (tmp_path / "fused.json").write_text((tmp_path / "fused.json").read_text().replace('"mayor', '"major', 1)[:-20])
    with pytest.raises(RunError, match=r"fused\.json"):
        FusedModel.load(tmp_path)


def test_rare_and_unknown_titles_have_the_weights_of_all_and_a_class_without_a_row_has_no_chance() -> None:
    comments = tiny_comments(60, missing=0.0)
    titles = ["a"] * 30 + ["b"] * (30 - FEWEST_OF_TITLE + 1) + ["c"] * (FEWEST_OF_TITLE - 1)
    comments = comments.set_column(comments.column_names.index("title"), "title", pa.array(titles, comments.schema.field("title").type))
    codes = {task: np.where(label_codes(comments, task) == 1, 0, label_codes(comments, task)) for task in DEFAULT_TASKS}
    codes["polarization"][:] = 2
    codes["sentiment"][:5] = -1
    model = fit_fused(comments, _vectors(comments), codes, DEFAULT_TASKS, say=lambda _: None)
    assert model.titles == ["a", "b"]
    found = model.probabilities(comments, _vectors(comments))
    assert (found["sentiment"][:, 1] == 0).all() and (found["polarization"][:, 2] == 1).all()
    without = comments.set_column(
        comments.column_names.index("title"), "title", pa.array(["new"] * 60, comments.schema.field("title").type)
    )
    elsewhere = model.probabilities(without, _vectors(comments))
    assert np.abs(elsewhere["sentiment"] - found["sentiment"])[:30].max() > 0.01


def test_more_rows_than_fit_are_sampled_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "MOST_ROWS", 50)
    comments, lines = tiny_comments(80), []
    codes = {task: label_codes(comments, task) for task in DEFAULT_TASKS}
    model = fit_fused(comments, _vectors(comments), codes, DEFAULT_TASKS, say=lines.append)
    assert any("random sample of 50 of the 80" in line for line in lines)
    assert model.probabilities(comments, _vectors(comments))["sentiment"].shape == (80, 3)
