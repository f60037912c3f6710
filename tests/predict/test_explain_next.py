"""Words' parts in a decision on planted words, and the rows that are worth labelling next, as their users call them."""

import csv
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import polarity
from polarity.baselines.floors import fit_linear
from polarity.config import DataConfig
from polarity.data.read import read_comments
from polarity.errors import DataError
from polarity.predict import Classifier, load_classifier
from polarity.predict.batch import ScoreOptions
from polarity.predict.classifier import MOST_SPANS, explain, top_words
from polarity.predict.scorers import LinearScorer
from polarity.workflows.next_rows import choose_next, next_rows, uncertainty
from polarity.workflows.predict import PredictOptions, predict, predict_text, render_text
from polarity.workflows.report import report
from tests.tiny import DEFAULT_TASKS, FILLER, marker, tiny_comments
from tests.trained import trained_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("explained") / "first")


@pytest.fixture(scope="module")
def linear() -> Classifier:
    """A classifier that has surely learnt the planted words."""
    floor = fit_linear(tiny_comments(1500, seed=1), DEFAULT_TASKS, say=lambda _: None)
    return Classifier("linear", LinearScorer(floor, DEFAULT_TASKS))


def test_the_planted_word_is_named_first(linear: Classifier) -> None:
    rng = np.random.default_rng(0)
    texts, planted = [], []
    for _ in range(60):
        words = list(rng.choice(FILLER, 9))
        classes = [int(rng.integers(3)), int(rng.integers(3))]
        for task in range(2):
            words.insert(int(rng.integers(len(words) + 1)), marker(task, classes[task]))
        texts.append(" ".join(words))
        planted.append(classes)
    found = explain(linear, texts)
    for task, name in enumerate(DEFAULT_TASKS):
        right = [row for row in range(60) if found[row][name].label == DEFAULT_TASKS[name][planted[row][task]]]
        first = [found[row][name].words[0].text == marker(task, planted[row][task]) for row in right]
        assert len(right) > 50 and np.mean(first) >= 0.9


def test_parts_are_differences_of_log_odds_and_spans_point_into_the_text(linear: Classifier) -> None:
    text = "  ang bulok,\n na  kalma "
    found = explain(linear, [text], ["mayor opens the new road"])[0]["sentiment"]
    without = {"ang": "bulok,\n na  kalma", "bulok,": "ang na  kalma", "na": "ang bulok,\n kalma", "kalma": "ang bulok,\n na"}

    def log_odds(comment: str, title: str) -> float:
        chance = float(linear.predict_table([comment], [title])[f"sentiment_p_{found.label}"][0].as_py())
        return float(np.log(chance / (1 - chance)))

    whole = log_odds(text, "mayor opens the new road")
    assert {word.text for word in found.words} == set(without)
    for word in found.words:
        assert text[word.start : word.end] == word.text
        assert word.part == pytest.approx(whole - log_odds(without[word.text], "mayor opens the new road"), abs=2e-3)
    assert found.title == pytest.approx(whole - log_odds(text, ""), abs=2e-3)
    assert [word.part for word in found.words] == sorted((word.part for word in found.words), reverse=True)


def test_one_word_and_very_long_comments_are_explained(linear: Classifier) -> None:
    found = explain(linear, ["bulok", "ang " * 5000 + "bulok"])
    assert [len(row["sentiment"].words) for row in found] == [1, MOST_SPANS]
    assert found[0]["sentiment"].title is None
    assert "bulok" in found[1]["sentiment"].words[0].text


def test_a_text_is_explained_on_a_terminal_and_as_json(run: Path) -> None:
    found = predict_text(ScoreOptions(str(run), explain=True), "ang bulok na " + "x" * 90, "mayor opens the new road")
    json.dumps(found)
    text = render_text(found)
    assert max(map(len, text.splitlines()[2:])) <= 80 and "the title" in text and "bulok" in text
    assert {"text", "start", "end", "part"} == set(found["tasks"]["sentiment"]["words"][0])


def test_the_report_names_the_words_behind_its_errors(run: Path, tmp_path: Path) -> None:
    copy, lines = tmp_path / "run", list[str]()
    shutil.copytree(run, copy)
    report(str(copy), explain=True, say=lines.append)
    page = (copy / "report.html").read_text(encoding="utf-8")
    errors = page[page.index('id="errors"') : page.index('id="labels"')]
    assert errors.count("because of: ") > 5 and re.search(r"because of: \S+ \(\+\d", errors)
    assert any(re.fullmatch(r"explained \d+ errors in .* s, .* s a row \(a prediction a word\)", line) for line in lines)


def test_a_labelled_file_keeps_its_labels_and_gets_words(run: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"Title": ["mayor opens the new road", ""], "Comment": ["ang bulok na", ""], "sentiment": ["negative", "positive"]}
    )
    frame.to_csv(tmp_path / "in.csv", index=False)
    lines: list[str] = []
    predict(ScoreOptions(str(run), explain=True), str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), say=lines.append)
    rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    assert [row["sentiment"] for row in rows] == ["negative", "positive"], "what was there is kept"
    assert rows[0]["predicted_sentiment"] in DEFAULT_TASKS["sentiment"] and rows[1]["predicted_sentiment"] == ""
    explained = explain(load_classifier(str(run), device="cpu"), ["ang bulok na"], ["mayor opens the new road"])[0]
    assert rows[0]["predicted_sentiment_words"] == top_words(explained["sentiment"]) and rows[1]["predicted_sentiment_words"] == ""
    assert any("'predicted_'" in line for line in lines) and not any("actor" in line for line in lines), "few rows need no Ray"
    # predicted once more, the names are taken with the prefix, too
    with pytest.raises(DataError, match="--prefix"):
        predict(ScoreOptions(str(run)), str(tmp_path / "out.csv"), str(tmp_path / "again.csv"), say=lines.append)
    given = PredictOptions(prefix="second_")
    predict(ScoreOptions(str(run)), str(tmp_path / "out.csv"), str(tmp_path / "again.csv"), given, say=lines.append)
    assert "second_sentiment" in next(csv.reader((tmp_path / "again.csv").open(encoding="utf-8")))


@pytest.mark.parametrize("extension", ["csv", "parquet", "xlsx"])
def test_a_labelled_file_comes_out_whole(run: Path, tmp_path: Path, extension: str) -> None:
    """All columns, types, order and labels, with the predictions of `Classifier.predict` behind them."""
    frame = pd.DataFrame(
        {
            "row_id": ["a", "b", "c"],
            "Title": ["mayor opens the new road", "", "rice prices rise again"],
            "Comment": ['ang bulok na, "grabe"', "galing ng tao\nñ 😀", "datos at ulat"],
            "likes": [3, 0, 12],
            "sentiment": ["negative", "positive", "neutral"],
            "polarization": ["partisan", None, "objective"],
        }
    )
    source, target = tmp_path / f"in.{extension}", tmp_path / f"out.{extension}"
    write = {"csv": frame.to_csv, "parquet": frame.to_parquet, "xlsx": frame.to_excel}[extension]
    write(source, index=False)
    predict(ScoreOptions(str(run), device="cpu"), str(source), str(target), say=lambda _: None)
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "xlsx": partial(pd.read_excel, engine="openpyxl")}[extension]
    found = read(target)
    before = read(source)
    assert list(found.columns[:6]) == list(frame.columns) and found.columns[6:].str.startswith("predicted_").all()
    for name in frame.columns:
        assert found[name].fillna("").astype(str).tolist() == before[name].fillna("").astype(str).tolist()
    expected = load_classifier(str(run), device="cpu").predict(frame["Comment"].tolist(), frame["Title"].tolist())
    assert found["predicted_sentiment"].tolist() == expected["sentiment"].tolist()
    assert found["predicted_polarization_confidence"].astype(float).tolist() == pytest.approx(expected["polarization_confidence"].tolist())


def test_a_column_of_numbers_is_no_column_of_comments(run: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"Title": ["t"] * 6, "Comment": ["1", "2.5", "-3", "4", "10 %", "6"]})
    frame.to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(DataError, match=r"in\.csv: the column 'Comment' holds numbers alone.*--comment-column"):
        predict(ScoreOptions(str(run)), str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), say=lambda _: None)
    with pytest.raises(DataError, match=r"holds numbers alone.*data\.comment_column"):
        read_comments(str(tmp_path / "in.csv"), DataConfig(), labelled=False, say=lambda _: None)


def test_everything_is_reachable_from_the_package_itself() -> None:
    assert polarity.resolve("quickstart").config.data.source == "sample:3000"
    for name in polarity.__all__:
        assert name == "__version__" or (getattr(polarity, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="it has Classifier, Config"):
        _ = polarity.lod


def test_frames_and_series_go_in_and_frames_come_out(run: Path) -> None:
    classifier = load_classifier(str(run), device="cpu")
    comments = ["ang bulok na", "galing ng tao"]
    plain = classifier.predict(comments, ["", "mayor opens the new road"])
    assert isinstance(plain, pd.DataFrame) and list(plain["comment"]) == comments
    frame = pd.DataFrame(
        {"Comment": comments, "Title": [None, "mayor opens the new road"], "polarization": ["partisan", None]}, index=[7, 3]
    )
    found = classifier.predict(frame)
    assert list(found.index) == [7, 3] and list(found.columns[:3]) == list(frame.columns)
    assert found["predicted_sentiment"].tolist() == plain["sentiment"].tolist()
    assert found["predicted_sentiment_confidence"].to_numpy() == pytest.approx(plain["sentiment_confidence"].to_numpy(), abs=1e-6)
    assert list(classifier.predict(frame["Comment"]).index) == [7, 3]
    with pytest.raises(DataError, match="no column 'Comment'"):
        classifier.predict(frame.rename(columns={"Comment": "Komento"}))
    assert "sentiment: negative, neutral, positive" in repr(classifier) and "first" in repr(classifier)


def test_doubt_by_hand() -> None:
    chances = {"a": np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), "b": np.array([[0.6, 0.4], [0.9, 0.1]])}
    assert uncertainty(chances) == pytest.approx([(1.0 + 0.8) / 2, (0.0 + 0.2) / 2])


def test_near_copies_and_one_title_do_not_fill_the_list() -> None:
    rng = np.random.default_rng(0)
    copies = [f"bulok na bulok ang trapo number {i}" for i in range(200)]
    others = [" ".join(rng.choice(FILLER, 8)) for _ in range(100)]
    comments = copies + others
    doubt = np.concatenate([np.full(200, 0.5), np.linspace(0.52, 0.6, 100)])  # the copies are the least sure
    chances = {"t": np.column_stack([doubt, 1 - doubt])}
    titles = ["one"] * 200 + [f"title {i % 10}" for i in range(100)]
    chosen = next_rows(chances, comments, titles, 60)
    assert len(set(chosen.tolist())) == 60 and (chosen < 200).sum() < 45, "by doubt alone all sixty would be copies"
    assert np.array_equal(chosen, next_rows(chances, comments, titles, 60)), "the same seed, the same rows"
    assert len(next_rows(chances, comments, titles, 1000)) == 300
    assert len(next_rows({"t": chances["t"][:3]}, ["a", "a", "a"], ["x"] * 3, 2)) == 2


def test_the_file_for_annotators_can_be_filled_in(run: Path, tmp_path: Path) -> None:
    table = tiny_comments(80, seed=3).to_pandas()
    frame = pd.DataFrame({"row_id": table["row_id"], "Title": table["title"], "Comment": table["comment"]})
    frame["Final Sentiment"] = ["negative"] * 30 + [""] * 50
    frame["Final Polarization"] = ["partisan"] * 20 + [""] * 60
    frame.loc[79, "Comment"] = " "
    frame.to_parquet(tmp_path / "all.parquet")
    lines: list[str] = []
    options = ScoreOptions(str(run), device="cpu")
    assert choose_next(options, str(tmp_path / "all.parquet"), str(tmp_path / "next.csv"), 15, say=lines.append) == 15
    found = pd.read_csv(tmp_path / "next.csv", keep_default_na=False)
    assert list(found.columns) == [*frame.columns, "priority"] and found["priority"].tolist() == list(range(1, 16))
    ids = set(frame["row_id"])
    assert set(found["row_id"]) <= ids - set(frame["row_id"][:20]) - {frame["row_id"][79]}, "labelled and blank rows are left out"
    assert "21 rows were left out" in " ".join(lines)
    with pytest.raises(DataError, match="is there already"):
        choose_next(options, str(tmp_path / "all.parquet"), str(tmp_path / "next.csv"), 15, say=lines.append)
    frame[:20].to_csv(tmp_path / "done.csv", index=False)
    with pytest.raises(DataError, match="all its labels already"):
        choose_next(options, str(tmp_path / "done.csv"), str(tmp_path / "other.csv"), 15, say=lines.append)
    found.to_csv(tmp_path / "taken.csv", index=False)
    with pytest.raises(DataError, match="'priority'"):
        choose_next(options, str(tmp_path / "taken.csv"), str(tmp_path / "other.csv"), 15, say=lines.append)
    with pytest.raises(DataError, match="one file"):
        choose_next(options, str(tmp_path / "all.parquet"), str(tmp_path / "folder"), 15, say=lines.append)


def test_a_label_that_is_not_the_likeliest_says_why() -> None:
    def shown(label: str) -> str:
        task: Any = {"label": label, "confidence": 0.3, "probabilities": {"rare": 0.3, "common": 0.7}}
        return render_text({"comment": "x", "title": "", "tasks": {"mood": task}})

    assert "not the likeliest" in shown("rare") and "--raw" in shown("rare") and "not the likeliest" not in shown("common")
