"""A trained run as a classifier: the numbers of its training, in any batches, alone and in ensembles; and runs that cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import softmax

from polarity.data.batch import Corpus
from polarity.data.read import read_comments
from polarity.data.tokenize import tokenize
from polarity.encoders import load_tokenizer
from polarity.errors import DataError, PolarityError, RunError
from polarity.evaluate.calibration import apply
from polarity.model.inference import score, to_tensors
from polarity.model.multitask import load_model
from polarity.predict import Classifier, load_classifier
from polarity.resolve import parse_config
from tests.tiny import tiny_comments
from tests.trained import trained_run, training_file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("classifier") / "first")


@pytest.fixture(scope="module")
def comments() -> pa.Table:
    return tiny_comments(70, seed=5)


def raw(run: Path | str, **options: object) -> Classifier:
    return load_classifier(str(run), raw=True, device="cpu", **options)  # type: ignore[arg-type]


def test_the_run_s_own_predictions_are_given_again(run: Path) -> None:
    config = parse_config((run / "config.yaml").read_text(), "config.yaml")
    own = pq.read_table(run / "predictions.parquet")
    rows = read_comments(str(training_file()), config.data, say=lambda _: None)
    rows = rows.take(pc.index_in(own["row_id"].cast(pa.large_string()), value_set=rows["row_id"].combine_chunks()))
    scores = raw(run).score(rows)
    for task, classes in config.labels.items():
        for k, label in enumerate(classes):
            assert scores[task].probabilities[:, k] == pytest.approx(own[f"{task}_p_{label}"].to_numpy(), abs=1e-5)
        assert [classes[k] for k in scores[task].predicted] == own[f"{task}_prediction"].to_pylist()


@pytest.mark.parametrize("votes", ["off", "mean", "vote"])
def test_order_and_batches_change_nothing(run: Path, comments: pa.Table, votes: str) -> None:
    whole = raw(run, votes=votes).score(comments)
    turned = raw(run, votes=votes, batch_size=3).score(comments.take(pa.array(np.arange(70)[::-1])))
    for task in whole:
        assert turned[task].probabilities[::-1] == pytest.approx(whole[task].probabilities, abs=1e-5)
        assert np.array_equal(turned[task].predicted[::-1], whole[task].predicted)
        assert whole[task].probabilities.dtype == np.float32 and whole[task].predicted.dtype == np.int64


@pytest.mark.parametrize("votes", ["off", "mean", "vote"])
def test_votes_are_the_model_s_own(run: Path, comments: pa.Table, votes: str) -> None:
    model, tokenizer, config = (
        load_model(run / "model"),
        load_tokenizer(run / "model"),
        parse_config((run / "config.yaml").read_text(), "config.yaml"),
    )
    corpus = Corpus.from_table(tokenize(comments, tokenizer, config.data), [], tokenizer.pad_token_id)
    expected = score(model, to_tensors(corpus.collate(np.arange(70)), torch.device("cpu")), votes)
    found = raw(run, votes=votes).score(comments)
    for task, scores in expected.items():
        assert found[task].probabilities == pytest.approx(scores.probabilities.numpy(), abs=1e-5)
        assert np.array_equal(found[task].predicted, scores.predicted.numpy())


def test_modes_differ_and_the_run_s_mode_is_the_default(run: Path, comments: pa.Table, tmp_path: Path) -> None:
    off, mean = (raw(run, votes=votes).score(comments)["sentiment"].probabilities for votes in ("off", "mean"))
    assert np.abs(off - mean).max() > 1e-3
    voting = trained_run(tmp_path / "voting", sets=("model.multi_sample.inference=mean",))
    assert raw(voting).score(comments)["sentiment"].probabilities == pytest.approx(
        raw(voting, votes="mean").score(comments)["sentiment"].probabilities
    )


def calibrated(run: Path, biases: list[float] | None) -> None:
    tasks = {"sentiment": {"temperature": 2.0, "biases": biases}}
    (run / "model" / "calibration.json").write_text(json.dumps({"schema_version": 1, "tasks": tasks}))


def test_calibration_is_applied_unless_raw(comments: pa.Table, tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    (run / "model" / "calibration.json").unlink(missing_ok=True)
    plain = load_classifier(str(run))
    before = plain.score(comments)
    calibrated(run, [5.0, 0.0, -5.0])
    fitted = load_classifier(str(run))
    after = fitted.score(comments)
    assert fitted.calibrated and not plain.calibrated
    probabilities, predicted = apply(before["sentiment"].probabilities, 2.0, [5.0, 0.0, -5.0])
    assert after["sentiment"].probabilities == pytest.approx(probabilities, abs=1e-6)
    assert np.array_equal(after["sentiment"].predicted, predicted) and (predicted != before["sentiment"].predicted).any()
    assert np.array_equal(after["polarization"].probabilities, before["polarization"].probabilities)
    assert np.array_equal(raw(run).score(comments)["sentiment"].probabilities, before["sentiment"].probabilities)


def test_a_temperature_does_not_undo_a_vote(comments: pa.Table, tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    votes = load_classifier(str(run), raw=True, votes="vote").score(comments)["sentiment"].predicted
    calibrated(run, None)
    assert np.array_equal(load_classifier(str(run), votes="vote").score(comments)["sentiment"].predicted, votes)


def test_predict_gives_a_readable_table(run: Path) -> None:
    classifier = raw(run)
    table = classifier.predict_table(["galing galing", "bulok <b>na</b>", "x"], ["mayor opens the new road", "", "no such post"])
    names = ["comment"]
    for task, classes in classifier.labels.items():
        names += [task, *(f"{task}_p_{label}" for label in classes), f"{task}_confidence"]
    assert table.column_names == names and table.num_rows == 3
    assert list(classifier.labels) == list(parse_config((run / "config.yaml").read_text(), "config.yaml").labels)
    for row in table.to_pylist():
        for task, classes in classifier.labels.items():
            assert row[f"{task}_confidence"] == row[f"{task}_p_{row[task]}"]
            assert sum(row[f"{task}_p_{label}"] for label in classes) == pytest.approx(1.0, abs=1e-5)
    assert classifier.predict_table([]).num_rows == 0 and classifier.predict_table([]).column_names == names


def test_odd_texts_are_scored_or_refused(run: Path) -> None:
    classifier = raw(run)
    long = classifier.predict_table(["mabuti " * 150_000, "👍", "\u202eabc", "a\x00b"])  # the first is 1 MB
    assert long.num_rows == 4 and not any(np.isnan(long["sentiment_confidence"].to_numpy()))
    for texts, titles, words in (
        (["fine", " \u200b "], None, "text 1"),
        (["fine", None], None, r"texts\[1\] is missing"),
        (["fine", float("nan")], None, "missing"),
        (["fine", 3], None, "a int"),
        (["a", "b"], ["one"], "1 titles"),
        ("one string", None, "give a list"),
        (["\ud800"], None, "surrogate"),
    ):
        with pytest.raises(DataError, match=words):
            classifier.predict_table(texts, titles)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no column 'comment'"):
        classifier.score(pa.table({"title": ["a"], "coment": ["b"]}))


def ensemble(folder: Path, **content: object) -> str:
    folder.mkdir()
    (folder / "ensemble.json").write_text(json.dumps({"schema_version": 1, **content}))
    return str(folder)


def test_an_ensemble_averages_log_probabilities(run: Path, comments: pa.Table, tmp_path: Path) -> None:
    second = trained_run(tmp_path / "second", seed=1)
    calibrated(second, [9.0, 0.0, 0.0])  # members are taken raw
    both = load_classifier(ensemble(tmp_path / "both", members=[str(run), "../second"], weights=[3, 1]))
    one, two = (raw(member).score(comments)["sentiment"].probabilities.astype(np.float64) for member in (run, second))
    assert np.abs(one - two).max() > 0.01
    found = both.score(comments)["sentiment"]
    assert both.name == "both" and not both.calibrated
    assert found.probabilities == pytest.approx(softmax(0.75 * np.log(one) + 0.25 * np.log(two), axis=1), abs=1e-5)
    assert np.array_equal(found.predicted, found.probabilities.argmax(axis=1))
    alone = load_classifier(ensemble(tmp_path / "alone", members=[str(run)], weights=[1]))
    assert alone.score(comments)["sentiment"].probabilities == pytest.approx(one, abs=1e-5)


def test_ensembles_that_cannot_be_used(run: Path, tmp_path: Path) -> None:
    other = trained_run(tmp_path / "other", sets=("data.tasks.polarization=null", "data.bad_rows=drop"))
    inner = ensemble(tmp_path / "inner", members=[str(run)])
    for number, (content, words) in enumerate(
        (
            ({"members": []}, "list of run folders"),
            ({"members": "a"}, "list of run folders"),
            ({"members": [str(run)], "weights": [1, 2]}, "1 numbers"),
            ({"members": [str(run)], "weights": [-1]}, "at least 0"),
            ({"members": ["../nowhere"]}, "no run here"),
            ({"members": [inner]}, "an ensemble itself"),
            ({"members": [str(run), str(other)]}, "other tasks or classes"),
        )
    ):
        with pytest.raises(RunError, match=words):
            load_classifier(ensemble(tmp_path / f"bad{number}", **content))


def _truncate(run: Path) -> None:
    path = run / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _other_version(run: Path) -> None:
    path = run / "environment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))


def _rename_class(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("[negative, neutral,", "[bad, neutral,"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated weights": (_truncate, "model.safetensors is damaged or incomplete"),
    "other schema version": (_other_version, "another schema version"),
    "no weights": (lambda run: (run / "model" / "model.safetensors").unlink(), "no model.safetensors"),
    "no tokenizer": (lambda run: [path.unlink() for path in (run / "model").glob("tokenizer*")], "tokenizer"),
    "no configuration": (lambda run: (run / "config.yaml").unlink(), "has no config.yaml"),
    "damaged configuration": (lambda run: (run / "config.yaml").write_text("data: ["), "config.yaml"),
    "damaged model settings": (lambda run: (run / "model" / "config.json").write_text("{"), "config.json is damaged"),
    "another run's configuration": (_rename_class, "different tasks or classes"),
    "no model": (lambda run: (run / "model").rename(run / "elsewhere"), "has no model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_runs_are_refused(damage: str, tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    break_it, words = DAMAGES[damage]
    break_it(run)
    with pytest.raises(PolarityError, match=words):
        load_classifier(str(run))


def test_what_is_no_run_and_wrong_options_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place, words in ((tmp_path / "nowhere", "no run here"), (tmp_path, "no run here"), (tmp_path / "file", "is a file")):
        with pytest.raises(RunError, match=words):
            load_classifier(str(place))
    for options, words in (
        ({"votes": "maen"}, "did you mean 'mean'"),
        ({"device": "gpu"}, "take auto"),
        ({"device": "cuda:99"}, "this machine has"),
        ({"device": "meta"}, "take auto"),
        ({"batch_size": 0}, "at least 1"),
        ({"precision": "fp8"}, "fp"),
    ):
        with pytest.raises(RunError, match=words):
            load_classifier(str(run), **options)  # type: ignore[arg-type]


def test_a_uri_is_a_run_too(run: Path, comments: pa.Table) -> None:
    there = load_classifier(run.as_uri(), raw=True)
    assert there.name == run.name
    assert np.array_equal(there.score(comments)["sentiment"].predicted, raw(run).score(comments)["sentiment"].predicted)
