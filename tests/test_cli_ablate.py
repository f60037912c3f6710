"""`polarity ablate` and `polarity tune` as their users meet them: the plan, the mistakes, and one small run of each."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from polarity.cli import training
from polarity.errors import PolarityError
from polarity.resolve import parse_config
from polarity.tune.designs import arm_configs
from polarity.workflows.tune import BASE, read_space, search_arms
from tests.tune.studies import Inputs, make_inputs

app = typer.Typer()
app.command("ablate")(training.ablate)
app.command("tune")(training.tune)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("cli"))


def call(*words: str) -> str:
    """What a command prints; its PolarityError is raised."""
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def small(inputs: Inputs, *more: str) -> list[str]:
    sets = [word for text in ("optim.lr=3e-3", "train.precision=fp32", "train.resamples=100") for word in ("--set", text)]
    return ["--preset", "small", "--data", str(inputs.data), "--encoder", str(inputs.encoder), "--epochs", "2", *sets, *more]


@pytest.mark.slow
def test_dry_run_lists_the_plan_and_what_it_can_find(inputs: Inputs, ray_cluster: None, tmp_path: Path) -> None:
    shown = call("ablate", *small(inputs, "--design", "only", "--seeds", "4", "--dry-run", "--study-dir", str(tmp_path / "study")))
    for words in ("baseline: 2 epochs", "tier-3: 2 epochs", "exploration: 5 trials", "rungs at 50%", "confirmation: at most 20 trials"):
        assert words in shown
    assert "with 4 seeds a true difference of" in shown and "time: at most about" in shown
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "small"], "no data"),
        (["--preset", "small", "--data", "x.csv", "--seeds", "0"], "--seeds must be at least 1"),
        (["--preset", "small", "--data", "x.csv", "--effects-on", "train"], "--effects-on train"),
        (["--preset", "small", "--data", "x.csv", "--design", "lader"], "did you mean 'ladder'"),
        (["--preset", "small", "--data", "x.csv", "--budget", "soon"], "--budget soon"),
        (["--resume"], "--resume needs --study-dir"),
        (["--resume", "--study-dir", "s", "--data", "x.csv"], "leave out --data"),
        (["--resume", "--study-dir", "s", "--seeds", "9", "--no-asha"], "leave out --seeds, --no-asha"),
        (["--retry-failed"], "--retry-failed needs --resume"),
        (["--resume", "--study-dir", "nowhere"], "holds no study to resume"),
        (["--preset", "small", "--data", "x.csv", "--set", "data.oversample.alhpa=1"], "did you mean"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolarityError, match=message):
        call("ablate", *words)


@pytest.mark.slow
def test_a_study_from_one_command_and_none_in_its_place(inputs: Inputs, ray_cluster: None, tmp_path: Path) -> None:
    arms = tmp_path / "arms.yaml"
    arms.write_text("- name: baseline\n- name: focal\n  points: [6]\n")
    place = str(tmp_path / "study")
    shown = call("ablate", *small(inputs, "--arms", str(arms), "--no-asha", "--seeds", "2", "--study-dir", place))
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    assert [(t["id"], t["status"]) for t in study["trials"]] == [
        (f"confirm-{arm}-s{seed}", "finished") for seed in (0, 1) for arm in ("baseline", "focal")
    ]
    assert study["savings"]["trial_epochs_run"] == study["savings"]["trial_epochs_full"] == 8
    assert study["asha"] is None and study["asha_replay"]["epochs_full"] == 8
    assert study["detectable"]["before"] > 0 and study["equal_compute"]["cheapest"] in ("baseline", "focal")
    assert (tmp_path / "study" / "effects.parquet").is_file() and "focal" in shown
    assert "<html" in (tmp_path / "study" / "report.html").read_text()
    with pytest.raises(PolarityError, match="already holds a study"):
        call("ablate", *small(inputs, "--arms", str(arms), "--study-dir", place))


def space(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def test_a_space_is_drawn_alike_for_one_seed(inputs: Inputs, tmp_path: Path) -> None:
    text = (
        "optim.lr: {loguniform: [1.0e-4, 1.0e-2]}\n"
        "loss: {focal_gamma: {sentiment: {uniform: [0, 3]}}, class_weights: {strength: {quniform: [0, 1, 0.25]}}}\n"
        "model.pooling: {choice: [mean, cls]}\n"
        "optim.cycles: {quniform: [1, 3, 1]}\n"
    )
    ranges = read_space(space(tmp_path, text))
    arms = search_arms(ranges, 20, seed=1)
    assert arms == search_arms(ranges, 20, seed=1) != search_arms(ranges, 20, seed=2)
    assert arms[0].name == BASE and len(arms) == 21
    for arm in arms[1:]:
        assert 1e-4 <= arm.sets["optim.lr"] <= 1e-2
        assert arm.sets["loss.class_weights.strength"] in (0, 0.25, 0.5, 0.75, 1)
        assert arm.sets["model.pooling"] in ("mean", "cls") and isinstance(arm.sets["optim.cycles"], int)
    config = arm_configs(inputs.base(), arms[:2])[arms[1].name]
    assert config.loss.focal_gamma["sentiment"] == arms[1].sets["loss.focal_gamma.sentiment"]


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    ranges = read_space(space(tmp_path, "model.pooling: {choice: [mean, cls]}\noptim.schedule: {choice: [linear, cosine]}\n"))
    assert len({tuple(arm.sets.items()) for arm in search_arms(ranges, 1, 0, grid=True)}) == 5
    with pytest.raises(PolarityError, match="--grid needs choices"):
        search_arms(read_space(space(tmp_path, "optim.lr: {uniform: [0.1, 0.2]}\n")), 1, 0, grid=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lrr: {uniform: [0, 1]}\n", "did you mean 'optim.lr'"),
        ("optim: {lrr: {uniform: [0, 1]}}\n", "no setting 'optim.lrr'"),
        ("optim.lr: {loguniform: [0, 1]}\n", "low > 0"),
        ("optim.lr: {uniform: [2, 1]}\n", "low < high"),
        ("optim.lr: {normal: [2, 1]}\n", "no range 'normal'"),
        ("optim.lr: 3\n", "write {loguniform"),
        ("optim.lr: {uniform: [a, b]}\n", "takes 2 numbers"),
        ("{}\n", "empty"),
    ],
)
def test_mistakes_in_a_space_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PolarityError, match=message):
        read_space(space(tmp_path, text))


@pytest.mark.slow
def test_a_search_writes_a_configuration_that_training_takes(
    inputs: Inputs, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From names relative to this folder, in which the trials' processes do not stand."""
    monkeypatch.chdir(inputs.data.parent)
    places = ["--data", inputs.data.name, "--encoder", inputs.encoder.name]
    path = space(tmp_path, "optim.lr: {choice: [1.0e-6, 2.0e-3]}\n")
    place = tmp_path / "search"
    shown = call("tune", str(path), "--grid", *small(inputs, *places, "--study-dir", str(place), "--max-concurrent", "1"))
    study = json.loads((place / "study.json").read_text())
    states = {trial["arm"]: trial["status"] for trial in study["trials"]}
    assert states["base"] == "finished" and states["sample-001"] == "stopped"  # it learns next to nothing
    best = parse_config((place / "best.yaml").read_text(), "config.yaml")
    assert (best.data.source, best.model.encoder) == (str(inputs.data), str(inputs.encoder))
    assert best.optim.lr == {"base": 3e-3, "sample-002": 2e-3}[study["best"]["arm"]]
    assert study["best"]["arm"] in shown and "rows that chose nothing" in shown
