"""Soups and ensembles against arithmetic done here; both are runs that can be moved and loaded; members that do not fit are refused."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from polarity.artifacts import RunFolder
from polarity.baselines.floors import fit_linear
from polarity.data.split import load_splits
from polarity.errors import RunError
from polarity.evaluate import metrics_schema
from polarity.predict import load_classifier
from polarity.predict.scorers import fit_weights
from polarity.resolve import parse_config
from polarity.workflows.ensemble import choose_weights, ensemble
from polarity.workflows.members import new_run
from polarity.workflows.soup import average, greedy, soup
from tests.tiny import tiny_comments
from tests.trained import _run, trained_run


def quiet(_: str) -> None:
    """Said lines are no matter here."""


def test_average_by_hand_keeps_kinds_and_whole_numbers() -> None:
    one = {"w": torch.tensor([1.0, 2.0]), "steps": torch.tensor([3])}
    two = {"w": torch.tensor([2.0, -2.0]), "steps": torch.tensor([5])}
    mean = average([lambda: one, lambda: two, lambda: two])
    assert mean["w"].tolist() == pytest.approx([5 / 3, -2 / 3]) and mean["w"].dtype == torch.float32
    assert mean["steps"].tolist() == [3] and one["w"].tolist() == [1.0, 2.0]


def test_greedy_adds_from_the_best_down_only_what_does_not_hurt() -> None:
    scores = {(1, 2): 0.62, (1, 2, 0): 0.61, (1, 2, 3): 0.62}
    asked: list[tuple[int, ...]] = []

    def score_of(positions: list[int]) -> float:
        asked.append(tuple(positions))
        return scores[tuple(positions)]

    kept, tried = greedy([0.5, 0.6, 0.58, 0.4], score_of)
    assert kept == [1, 2, 3] and asked == list(scores)
    assert [step["kept"] for step in tried] == [True, True, False, True]


def test_fitted_weights_are_the_best_of_a_fine_grid() -> None:
    rng = np.random.default_rng(0)
    codes = np.where(rng.random(300) < 0.1, -1, rng.integers(0, 3, 300))
    members = [{"mood": noisy(codes, strength, rng)} for strength in (2.0, 0.7)]
    weights = fit_weights(members, {"mood": codes})
    assert sum(weights) == pytest.approx(1, abs=2e-3)

    def loss(share: float) -> float:
        pooled = np.exp(share * np.log(members[0]["mood"]) + (1 - share) * np.log(members[1]["mood"]))
        pooled /= pooled.sum(axis=1, keepdims=True)
        return float(np.mean([-np.log(pooled[codes == k, k]).mean() for k in range(3)]))

    grid = np.linspace(0, 1, 401)
    assert weights[0] == pytest.approx(grid[np.argmin([loss(share) for share in grid])], abs=0.005)


def noisy(codes: NDArray[np.int64], strength: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Probabilities (N, 3) that lean towards the class by `strength`."""
    logits = rng.normal(size=(len(codes), 3)) + strength * (codes[:, None] == np.arange(3))
    exponents = np.exp(logits)
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("strengths", "chosen"), [((1.5, 1.5), "equal"), ((2.5, -2.5), "fitted")])
def test_weights_are_fitted_only_where_that_helps(strengths: tuple[float, float], chosen: str) -> None:
    rng = np.random.default_rng(1)
    labels = {"mood": ["bad", "fair", "good"]}
    comments = tiny_comments(400, tasks=labels)
    codes = comments["mood"].fill_null(-1).to_numpy().astype(np.int64)
    members = [{"mood": noisy(codes, strength, rng)} for strength in strengths]
    weights, choice = choose_weights(members, comments, labels, by_title=False, resamples=300)
    assert choice["chosen"] == chosen
    assert weights == ([0.5, 0.5] if chosen == "equal" else [1.0, 0.0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return trained_run(folder / "a"), trained_run(folder / "b", seed=1)


def check_run(folder: Path) -> None:
    """A folder that says what it is, whose scores are those of its predictions, and which gives them again."""
    metrics = json.loads((folder / "metrics.json").read_text())
    jsonschema.validate(metrics, metrics_schema())
    own = pq.read_table(folder / "predictions.parquet")
    assert metrics["validation"]["rows"] == pc.sum(pc.equal(own["split"], "validation")).as_py()
    config = parse_config((folder / "config.yaml").read_text(), "config.yaml")
    splits = load_splits(config.data, quiet)
    classifier = load_classifier(str(folder), raw=True, device="cpu")
    assert classifier.labels == config.labels
    for name in ("validation", "test"):
        table = splits.parts[name]
        rows = own.filter(pc.equal(own["split"], name))
        assert rows["row_id"].to_pylist() == table["row_id"].to_pylist()
        for task, scores in classifier.score(table).items():
            for k, label in enumerate(config.labels[task]):
                np.testing.assert_allclose(scores.probabilities[:, k], rows[f"{task}_p_{label}"].to_numpy(), atol=1e-5)
            assert [config.labels[task][k] for k in scores.predicted] == rows[f"{task}_prediction"].to_pylist()
    assert json.loads((folder / "environment.json").read_text())["made_from"]
    assert load_classifier(str(folder), device="cpu").calibrated


@pytest.mark.slow
def test_soup_has_the_mean_of_the_weights_and_is_a_run(runs: tuple[Path, Path], tmp_path: Path) -> None:
    said: list[str] = []
    soup([str(run) for run in runs], str(tmp_path / "soup"), say=said.append)
    weights = [load_file(run / "model" / "model.safetensors") for run in (*runs, tmp_path / "soup")]
    for name, mean in weights[2].items():
        np.testing.assert_allclose(mean, (weights[0][name].astype(np.float64) + weights[1][name]) / 2, rtol=1e-6, atol=1e-9)
    check_run(tmp_path / "soup")
    record = json.loads((tmp_path / "soup" / "soup.json").read_text())
    for run, member in zip(runs, record["members"], strict=True):
        own = json.loads((run / "metrics.json").read_text())["validation"]["overall"]["macro_f1"]
        assert member["validation"] == pytest.approx(own, abs=1e-9)
    assert record["kind"] == "uniform" and any("soup of 2 of 2" in line for line in said)


@pytest.mark.slow
def test_greedy_soup_is_never_below_its_best_member_on_validation(runs: tuple[Path, Path], tmp_path: Path) -> None:
    metrics = soup([str(run) for run in runs], str(tmp_path / "soup"), greedily=True, say=quiet)
    own = [json.loads((run / "metrics.json").read_text())["validation"]["overall"]["macro_f1"] for run in runs]
    assert metrics["validation"]["overall"]["macro_f1"] >= max(own) - 1e-9


@pytest.mark.slow
def test_checkpoints_of_one_run_make_a_soup(tmp_path: Path) -> None:
    shutil.copytree(_run(0, ()), tmp_path / "run")
    epochs = sorted((tmp_path / "run" / "checkpoints").iterdir())
    soup([str(epoch) for epoch in epochs], str(tmp_path / "soup"), say=quiet)
    own = load_file(tmp_path / "run" / "model" / "model.safetensors")
    one, two, mean = (load_file(folder / "model.safetensors") for folder in (*epochs, tmp_path / "soup" / "model"))
    assert len(epochs) == 2 and mean.keys() == own.keys()
    for name in own:
        if one[name].shape == own[name].shape:
            np.testing.assert_allclose(mean[name], (one[name] + two[name]) / 2, rtol=1e-5, atol=1e-8)
            continue
        # A checkpoint holds the rows of the words that occur; the mean of those stands among the run's others, which no text here needs.
        changed = mean[name][~(mean[name] == own[name]).all(axis=1)]
        averaged = {row.tobytes() for row in ((one[name].astype(np.float64) + two[name]) / 2).astype(np.float32)}
        assert {row.tobytes() for row in changed} <= averaged and len(changed) > len(averaged) / 2
    check_run(tmp_path / "soup")


@pytest.mark.slow
def test_ensemble_with_the_linear_floor_stands_alone(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for run in runs:
        shutil.copytree(run, tmp_path / run.name)
    members = [str(tmp_path / run.name) for run in runs]
    ensemble(members, str(tmp_path / "here"), linear=True, weights="equal", say=quiet)
    for member in members:
        shutil.rmtree(member)
    (tmp_path / "here").rename(tmp_path / "there")
    check_run(tmp_path / "there")
    content = json.loads((tmp_path / "there" / "ensemble.json").read_text())
    assert content["members"] == ["members/a", "members/b"] and content["linear"] and len(content["weights"]) == 3

    config = parse_config((tmp_path / "there" / "config.yaml").read_text(), "config.yaml")
    splits = load_splits(config.data, quiet)
    assert splits.test is not None
    floor = fit_linear(splits.train, config.labels, say=quiet).probabilities(splits.test)
    for task, classes in config.labels.items():
        logs = np.log(np.clip(floor[task], 1e-6, 1))
        for run in runs:
            logs = logs + np.log(np.clip(probabilities(run, task, classes), 1e-6, 1))
        expected = np.exp(logs / 3)
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(probabilities(tmp_path / "there", task, classes), expected, atol=1e-5)


def probabilities(run: Path, task: str, classes: list[str]) -> NDArray[np.float64]:
    """A run's test probabilities (N, K)."""
    table = pq.read_table(run / "predictions.parquet")
    rows = table.filter(pc.equal(table["split"], "test"))
    return np.stack([rows[f"{task}_p_{label}"].to_numpy().astype(np.float64) for label in classes], axis=1)


@pytest.mark.slow
def test_ensemble_weights_are_chosen_and_said(runs: tuple[Path, Path], tmp_path: Path) -> None:
    said: list[str] = []
    ensemble([str(runs[0])], str(tmp_path / "out"), linear=True, say=said.append)
    content = json.loads((tmp_path / "out" / "ensemble.json").read_text())
    assert sum(content["weights"]) == pytest.approx(1, abs=2e-3)
    assert content["choice"]["chosen"] in ("equal", "fitted")
    assert content["validation"].keys() == {"a", "linear"} and content["against_best_member"]["verdict"] == "on rows that chose it"
    assert content["against_best_member_on_test"]["verdict"] in ("gain", "loss", "within noise")
    assert any(line.startswith("weights: ") for line in said) and any("linear: " in line for line in said)
    check_run(tmp_path / "out")
    with pytest.raises(RunError, match="is an ensemble itself"):
        ensemble([str(tmp_path / "out"), str(runs[0])], str(tmp_path / "more"), say=quiet)


OTHER = {
    "split": (("data.split.seed=7",), "was trained on .* rows that are validation or test rows"),
    "pooling": (("model.pooling=cls",), "pooling is 'cls', and 'mean' in"),
    "length": (("data.max_length=60",), r"data\.max_length is 60"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHER)
def test_members_that_do_not_fit_are_refused(kind: str, runs: tuple[Path, Path], tmp_path: Path) -> None:
    sets, message = OTHER[kind]
    other = trained_run(tmp_path / "other", sets=sets)
    with pytest.raises(RunError, match=message):
        soup([str(runs[0]), str(other)], str(tmp_path / "out"), say=quiet)
    if kind == "split":
        with pytest.raises(RunError, match=message):
            ensemble([str(runs[0]), str(other)], str(tmp_path / "out"), say=quiet)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_refused_and_leaves_nothing(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = (str(run) for run in runs)
    out = str(tmp_path / "out")
    with pytest.raises(RunError, match="at least two"):
        soup([first], out, say=quiet)
    with pytest.raises(RunError, match="named twice"):
        soup([first, f"{first}/"], out, say=quiet)
    with pytest.raises(RunError, match="at least 2 are needed"):
        ensemble([first], out, say=quiet)
    with pytest.raises(RunError, match="named twice"):
        ensemble([first, first], out, say=quiet)
    with pytest.raises(RunError, match="did you mean 'auto'"):
        ensemble([first, second], out, weights="aut", say=quiet)
    with pytest.raises(RunError, match="no run here"):
        ensemble([first, str(tmp_path / "nowhere")], out, say=quiet)
    with pytest.raises(RunError, match=r"holds something already .*--out"):
        ensemble([first, second], second, say=quiet)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds something already \(mine.txt\)"):
        soup([first, second], str(tmp_path / "notes"), say=quiet)
    relabelled = tmp_path / "relabelled"
    shutil.copytree(second, relabelled)
    table = pq.read_table(relabelled / "predictions.parquet")
    turned = pa.array(["negative"] * table.num_rows, pa.string())
    pq.write_table(
        table.set_column(table.schema.get_field_index("sentiment_label"), "sentiment_label", turned), relabelled / "predictions.parquet"
    )
    with pytest.raises(RunError, match="had another label of sentiment"):
        ensemble([first, str(relabelled)], out, say=quiet)
    cut = tmp_path / "cut"
    shutil.copytree(second, cut)
    weights = (cut / "model" / "model.safetensors").read_bytes()
    (cut / "model" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        soup([first, str(cut)], out, say=quiet)
    assert not Path(out).exists()


@pytest.mark.slow
def test_runs_given_as_uris(runs: tuple[Path, Path], tmp_path: Path) -> None:
    uris = [run.as_uri() for run in runs]
    soup(uris, (tmp_path / "a soup").as_uri(), say=quiet)
    check_run(tmp_path / "a soup")
    ensemble(uris, (tmp_path / "both").as_uri(), linear=True, weights="equal", say=quiet)
    check_run(tmp_path / "both")
    assert json.loads((tmp_path / "both" / "ensemble.json").read_text())["members"] == ["members/a", "members/b"]
    with pytest.raises(RunError, match="named twice"):
        soup([uris[0], str(runs[0])], str(tmp_path / "out"), say=quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a soup", "both"]


SCRIPT = """
import json, os, subprocess, sys
from polarity.errors import RunError
from polarity.workflows.ensemble import choose_weights, ensemble
from polarity.workflows.soup import average, greedy, soup
disk, *runs = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50k", "tmpfs", disk], check=True)
for size in ("50k", "196k"):
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
    for make in (soup, ensemble):
        try:
            make(runs, f"{disk}/new", say=lambda line: None)
        except RunError as error:
            print(json.dumps([make.__name__, size, str(error), os.listdir(disk)]))
"""


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_that_looks_like_a_run(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Too small for a model of 64 kB, and for what comes after it: 60 kB of metrics, or the second member."""
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no small disk can be mounted here: {probe.stderr.decode().strip()}")
    command = ["unshare", "-rm", sys.executable, "-c", SCRIPT, str(tmp_path), *map(str, runs)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry[:2] for entry in found] == [["soup", "50k"], ["ensemble", "50k"], ["soup", "196k"], ["ensemble", "196k"]], done.stderr
    for _, _, error, left in found:
        assert error.startswith(f"{tmp_path}/new/") and ("full" in error) and left == [], error
    assert "new/model: cannot be written" in found[0][2] and "new/metrics.json" in found[2][2]


def test_a_remote_place_gets_the_whole_run_or_nothing(runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = RunFolder.at

    def at(place: str) -> RunFolder:
        if not str(place).startswith("there://"):
            return local(place)
        (tmp_path / place.removeprefix("there://")).mkdir(parents=True, exist_ok=True)  # an object store has no folders to be made
        return RunFolder(place, pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), place.removeprefix("there://"))

    monkeypatch.setattr(RunFolder, "at", at)
    ensemble([str(run) for run in runs], "there://deep/both", weights="equal", say=quiet)
    check_run(tmp_path / "deep" / "both")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(RunError, match="there://deep/full: cannot write here"), new_run("there://deep/full") as folder:
            shutil.copytree(runs[0], folder.root, dirs_exist_ok=True)
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))  # small files arrive, the model does not
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list((tmp_path / "deep" / "full").iterdir()) == []
