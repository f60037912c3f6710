"""The synthetic corpus: its shape, and that it is neither trivial nor noise."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import OneHotEncoder

from polarity.config import DataConfig
from polarity.data import sample as words
from polarity.data.read import read_comments
from polarity.data.sample import JOINT, LABELS, sample_comments

TASKS = list(LABELS)


def test_same_seed_same_rows_and_a_shorter_one_is_its_beginning() -> None:
    whole = sample_comments(2500)
    assert whole.equals(sample_comments(2500))
    assert sample_comments(1200).equals(whole.slice(0, 1200))
    assert not sample_comments(100, seed=1)["comment"].equals(whole.slice(0, 100)["comment"])


def test_reading_the_source_gives_the_canonical_table() -> None:
    assert read_comments("sample:1500", DataConfig()).equals(sample_comments(1500))
    assert read_comments("sample", DataConfig()).num_rows == 3000


def test_it_says_everywhere_that_it_is_synthetic() -> None:
    titles = set(sample_comments(3000)["title"].to_pylist())
    assert len(titles) == 12
    assert all(title.startswith("[synthetic] ") for title in titles)


def test_strata_have_the_plans_proportions() -> None:
    table = sample_comments(20_000).drop_null()
    counts = np.zeros((3, 3))
    np.add.at(counts, (table["sentiment"].to_numpy(), table["polarization"].to_numpy()), 1)
    # wrong labels are drawn by class share, so they leave each task's shares alone, and loosen the tie between the tasks
    assert np.abs(counts.sum(axis=1) / counts.sum() - JOINT.sum(axis=1)).max() < 0.012
    assert np.abs(counts.sum(axis=0) / counts.sum() - JOINT.sum(axis=0)).max() < 0.012
    assert np.abs(counts / counts.sum() - JOINT).max() < 0.03


def test_labels_are_missing_now_and_then_but_never_both() -> None:
    table = sample_comments(5000)
    missing = np.stack([table[task].is_null().to_numpy() for task in TASKS])
    assert np.all((missing.mean(axis=1) > 0.005) & (missing.mean(axis=1) < 0.02))
    assert not missing.all(axis=0).any()


def test_typing_is_varied() -> None:
    comments = sample_comments(3000)["comment"].to_pylist()
    shares = {
        "capitals": np.mean([text.isupper() for text in comments]),
        "emoji": np.mean([any(ord(letter) > 0x1F000 for letter in text) for text in comments]),
        "drawn out": np.mean([any(vowel * 3 in text.lower() for vowel in "aeiou") for text in comments]),
        "repeated": 1 - len(set(comments)) / len(comments),
    }
    for kind, share in shares.items():
        assert 0.005 < share < 0.3, kind


@pytest.mark.parametrize("task", TASKS)
def test_words_say_more_than_titles_and_titles_more_than_nothing(task: str) -> None:
    table = sample_comments(3000)
    table = table.filter(table[task].is_valid())
    labels = table[task].to_numpy()
    titles = np.array(table["title"].to_pylist()).reshape(-1, 1)
    train, held_out = slice(0, 2100), slice(2100, None)
    counts = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    counts.fit(table["comment"].to_pylist()[:2100])
    scores = {}
    for name, features in {"words": counts.transform(table["comment"].to_pylist()), "title": OneHotEncoder().fit_transform(titles)}.items():
        model = LogisticRegression(C=3, class_weight="balanced", max_iter=1000).fit(features[train], labels[train])
        scores[name] = f1_score(labels[held_out], model.predict(features[held_out]), average="macro")
    majority = f1_score(labels[held_out], np.full(len(labels[held_out]), np.bincount(labels).argmax()), average="macro")
    # words without their order: far above a guess, and far below the 0.92 that the wrong labels allow
    assert 0.50 < scores["words"] < 0.68
    assert majority + 0.1 < scores["title"] < scores["words"] - 0.05


def test_order_tells_what_words_do_not() -> None:
    """Where two labels' words stand in one comment, their place beside the conjunction tells the label, and their number does not."""
    table = sample_comments(6000).drop_null()
    by_order = by_words = rows = 0
    for comment, label in zip(table["comment"].to_pylist(), table["sentiment"].to_pylist(), strict=True):
        said, conjunction, meant = comment.lower().partition(" pero ")
        found = [[any(phrase in side for phrase in words.SENTIMENT[k]) for k in range(3)] for side in (said, meant)]
        if conjunction and all(sum(side) == 1 for side in found) and found[0] != found[1]:
            rows += 1
            by_order += found[1][label]
            by_words += found[0][label]
    assert rows > 150
    assert by_order / rows > 0.85 and by_words / rows < 0.15
