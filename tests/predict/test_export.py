"""Exports give the run's labels where this package cannot be imported; what an export cannot do is refused and leaves nothing behind."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch
from huggingface_hub import ModelCard

from polarity.config import Config, DataConfig
from polarity.data.tokenize import plain_backend, tokenize
from polarity.encoders import load_tokenizer
from polarity.errors import RunError
from polarity.model.multitask import MultitaskModel
from polarity.predict import export_onnx, load_classifier, portable
from polarity.predict.export_hf import modeling_source
from polarity.predict.exported import ModulePart, standalone
from polarity.predict.portable import encode_texts, pad_rows
from polarity.workflows.export import Push, export
from tests.tiny import tiny_comments, tiny_encoder
from tests.trained import trained_run

PLAIN = ("train.epochs=8", "data.order=title_first", "data.max_length=48", "data.max_title=6")
VOTING = (
    *PLAIN,
    "model.pooling=attention",
    "model.concat_cls=true",
    "model.multi_sample.samples=3",
    "model.multi_sample.inference=vote",
)
STANDARD = ("train.epochs=8", "model.pooling=cls", "model.head.layers=0", "data.title_column=null", "data.max_comment=40")
CALIBRATION: dict[str, Any] = {
    "schema_version": 1,
    "tasks": {"sentiment": {"temperature": 1.7, "biases": [0.0, 0.05, -0.05]}, "polarization": {"temperature": 0.8, "biases": None}},
}

BLOCKED = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError("not here: " + name)
sys.meta_path.insert(0, Refuse())
folder, texts = sys.argv[1], json.load(open(sys.argv[2]))
"""
HF = """
from transformers import pipeline
rows = [{"text": comment, "text_pair": title} for comment, title in zip(texts["comments"], texts["titles"])]
found = {}
for task in ("sentiment", "polarization"):
    classify = pipeline("text-classification", folder + "/" + task, trust_remote_code=True, device="cpu")
    whole, chosen = classify(rows, top_k=None, batch_size=16), classify(rows)
    labels = [classify.model.config.id2label[index] for index in range(3)]
    ordered = [{entry["label"]: entry["score"] for entry in row} for row in whole]
    assert [row[0]["label"] for row in whole] == [entry["label"] for entry in chosen]
    found[task] = {"labels": [entry["label"] for entry in chosen], "probabilities": [[row[name] for name in labels] for row in ordered]}
"""
PLAIN_HF = """
from transformers import pipeline
found = {}
for task in ("sentiment", "polarization"):
    classify = pipeline("text-classification", folder + "/" + task, truncation=True, device="cpu")
    whole = classify(texts["comments"], top_k=None, batch_size=16)
    labels = [classify.model.config.id2label[index] for index in range(3)]
    ordered = [{entry["label"]: entry["score"] for entry in row} for row in whole]
    found[task] = {"labels": [row[0]["label"] for row in whole], "probabilities": [[row[name] for name in labels] for row in ordered]}
"""
ONNX = """
sys.path.insert(0, folder)
from polarity_onnx import OnnxClassifier
found = OnnxClassifier(folder, threads=1).classify(texts["comments"], texts["titles"])
"""
SHOW = """
for part in found.values():
    part["probabilities"] = [list(map(float, row)) for row in part["probabilities"]]
json.dump(found, open(sys.argv[3], "w"))
"""


@cache
def texts() -> pa.Table:
    """200 comments: some without a title, some far too long, some with what no vocabulary knows."""
    table = tiny_comments(200, seed=9)
    comments, titles = table["comment"].to_pylist(), table["title"].to_pylist()
    for row in range(0, 200, 7):
        titles[row] = ""
    for row in range(3, 200, 11):
        comments[row] = comments[row] * 30
    for row in range(5, 200, 23):
        comments[row] += " 😀 ẁ <b>&amp; ñ"
        titles[row] *= 20
    return pa.table({"title": pa.array(titles, pa.large_string()), "comment": pa.array(comments, pa.large_string())})


def calibrated_run(target: Path, sets: tuple[str, ...]) -> Path:
    run = trained_run(target, sets=sets)
    (run / "model" / "calibration.json").write_text(json.dumps(CALIBRATION))
    return run


def elsewhere(script: str, blocked: set[str], folder: Path, tmp_path: Path) -> dict[str, Any]:
    """What the script finds for `texts()` in a process that sees neither this checkout nor the blocked packages."""
    given = {"comments": texts()["comment"].to_pylist(), "titles": texts()["title"].to_pylist()}
    (tmp_path / "texts.json").write_text(json.dumps(given))
    code = BLOCKED.replace("{blocked}", repr(blocked)) + script + SHOW
    work = tmp_path / "elsewhere"
    work.mkdir()
    arguments = [str(folder), str(tmp_path / "texts.json"), str(tmp_path / "found.json")]
    done = subprocess.run([sys.executable, "-I", "-c", code, *arguments], cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads((tmp_path / "found.json").read_text()))


def assert_same(found: dict[str, Any], run: Path, votes: str | None = None, table: pa.Table | None = None) -> None:
    classifier = load_classifier(str(run), device="cpu", votes=votes)
    scores = classifier.score(texts() if table is None else table)
    assert set(found) == set(classifier.labels)
    for task, names in classifier.labels.items():
        assert found[task]["labels"] == [names[index] for index in scores[task].predicted]
        np.testing.assert_allclose(found[task]["probabilities"], scores[task].probabilities, atol=1e-4)
        assert len(set(found[task]["labels"])) > 1


@pytest.mark.slow
def test_a_pipeline_of_transformers_gives_the_run_s_labels(tmp_path: Path) -> None:
    run = calibrated_run(tmp_path / "run", VOTING)
    export(run.as_uri(), "hf", tmp_path / "out", say=lambda _: None)
    assert_same(elsewhere(HF, {"polarity"}, tmp_path / "out", tmp_path), run)
    written = "".join(path.read_text() for path in (tmp_path / "out").rglob("*") if path.suffix in (".json", ".md", ".py"))
    assert str(tmp_path) not in written and "_name_or_path" not in written
    card = ModelCard.load(tmp_path / "out" / "sentiment" / "README.md")
    assert "How texts are put together" in card.text and "temperature" in card.text and "objective" not in card.text
    [result] = card.data.eval_results or []
    scores = json.loads((run / "metrics.json").read_text())["test"]["tasks"]["sentiment"]
    assert result.metric_value == pytest.approx(scores["macro_f1"], abs=1e-4) and card.data.library_name == "transformers"


@pytest.mark.slow
def test_a_linear_head_on_the_first_token_is_a_model_of_transformers_own(tmp_path: Path) -> None:
    run = calibrated_run(tmp_path / "run", STANDARD)
    fitted = {**CALIBRATION["tasks"], "sentiment": {"temperature": 1.7, "biases": None}}
    (run / "model" / "calibration.json").write_text(json.dumps({**CALIBRATION, "tasks": fitted}))
    said: list[str] = []
    dry = Push("someone/comments", dry_run=True)
    about = export(str(run), "hf", tmp_path / "out", push=dry, say=said.append)
    assert set(about["models"].values()) == {"BertForSequenceClassification"}
    assert not list((tmp_path / "out").rglob("*.py"))
    untitled = texts().set_column(0, "title", pa.array([""] * 200, pa.large_string()))
    assert_same(elsewhere(PLAIN_HF, {"polarity"}, tmp_path / "out", tmp_path), run, table=untitled)
    sent = "\n".join(said)
    assert "would send to https://huggingface.co/someone/comments-sentiment (private)" in sent and "model.safetensors" in sent


def test_what_the_hub_would_not_take_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained_run(tmp_path / "run", sets=PLAIN)
    with pytest.raises(RunError, match="'a/b/c-sentiment' is no name of a repository: give USER/NAME"):
        export(str(run), "hf", tmp_path / "out", push=Push("a/b/c"))
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match=r"the hub did not take it.*the folder stays in"):
        export(str(run), "hf", tmp_path / "out", push=Push("someone/comments"), say=lambda _: None)


@pytest.mark.slow
def test_onnx_alone_gives_the_labels_of_one_pass(tmp_path: Path) -> None:
    run = calibrated_run(tmp_path / "run", VOTING)
    said: list[str] = []
    about = export(run.as_uri(), "onnx", tmp_path / "out", int8=True, say=said.append)
    found = elsewhere(ONNX, {"polarity", "torch", "transformers", "pyarrow", "sklearn"}, tmp_path / "out", tmp_path)
    assert_same(found, run, votes="off")
    assert about["check"]["largest_logit_difference"] < 1e-3 and about["check"]["texts"] > 30
    assert any("not carried: the run's own prediction by vote" in line for line in said)
    assert any("model.int8.onnx" in line and "validation rows" in line for line in said)
    assert about["int8"]["bytes"]["int8"] < about["int8"]["bytes"]["float32"]
    assert about == json.loads((tmp_path / "out" / "export.json").read_text())
    own = json.loads((run / "metrics.json").read_text())["validation"]["rows"]
    assert about["int8"]["rows"] == own


@pytest.mark.slow
def test_graph_holds_for_any_number_of_rows_and_tokens(tmp_path: Path) -> None:
    """Positions that padding shifts, several layers' states, and heads of blocks."""
    encoder = tiny_encoder(tmp_path / "encoder", "xlm-roberta", hidden=16, layers=4)
    head = {"layers": 2, "hidden_size": 24, "intermediate_size": 20, "residual": True}
    settings = Config.model_validate({"model": {"pooling": "last4_mean", "concat_cls": True, "concat_mean": True, "head": head}}).model
    model = MultitaskModel.from_encoder(encoder, settings, Config().labels, seed=0).eval()
    export_onnx.write_graph(model, tmp_path / "model.onnx", list(Config().labels), types=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for rows, tokens in [(1, 1), (1, 40), (9, 3), (3, 130)]:
        ids = torch.randint(5, model.encoder.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(tokens))
        mask = (torch.arange(tokens) < torch.arange(1, rows + 1).unsqueeze(1) * tokens // rows).long().clamp(min=0)
        mask[:, 0] = 1
        found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.no_grad():
            expected = model(ids, mask)
        for task, logits in zip(Config().labels, found, strict=True):
            np.testing.assert_allclose(logits, expected[task][0].numpy(), atol=1e-4)


@pytest.mark.slow
def test_a_graph_that_differs_from_torch_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained_run(tmp_path / "run", sets=PLAIN)
    write = export_onnx.write_graph

    def spoilt(model: Any, path: Path, tasks: list[str], *, types: bool) -> None:
        bias = model.heads["sentiment"].out.bias.data
        bias += 0.01
        write(model, path, tasks, types=types)
        bias -= 0.01

    monkeypatch.setattr(export_onnx, "write_graph", spoilt)
    with pytest.raises(RunError, match=r"differs from torch by 0\.01"):
        export(str(run), "onnx", tmp_path / "out", say=lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.slow
def test_int8_without_the_run_s_data_is_refused_and_float32_says_what_it_took(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", sets=PLAIN)
    config = (run / "config.yaml").read_text()
    source = next(line.split(": ", 1)[1] for line in config.splitlines() if line.strip().startswith("source:"))
    (run / "config.yaml").write_text(config.replace(source, "/nowhere/gone.csv"))
    with pytest.raises(RunError, match=r"--int8 reports what it costs.*gone\.csv"):
        export(str(run), "onnx", tmp_path / "out", int8=True, say=lambda _: None)
    assert not (tmp_path / "out").exists()
    said: list[str] = []
    about = export(str(run), "onnx", tmp_path / "out", say=said.append)
    assert about["check"]["source"] == "synthetic sample corpus" and any("gone.csv" in line for line in said)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", sets=PLAIN)
    with pytest.raises(RunError, match="did you mean 'onnx'"):
        export(str(run), "onx", tmp_path / "out")
    with pytest.raises(RunError, match="no run here"):
        export(str(tmp_path), "hf", tmp_path / "out")
    with pytest.raises(RunError, match="--int8 is for --to onnx"):
        export(str(run), "hf", tmp_path / "out", int8=True)
    with pytest.raises(RunError, match="holds something already"):
        export(str(run), "hf", run)
    weights = (run / "model" / "model.safetensors").read_bytes()
    (run / "model" / "model.safetensors").write_bytes(weights[:-50])
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        export(str(run), "hf", tmp_path / "out")
    (run / "ensemble.json").write_text("{}")
    with pytest.raises(RunError, match="is an ensemble"):
        export(str(run), "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


LENGTHS: list[dict[str, Any]] = [
    {"order": "title_first", "max_length": 40},
    {"order": "comment_first", "max_length": 48, "max_comment": 32, "max_title": 3},
    {"order": "comment_first", "max_length": 44, "max_title": 0},
    {"order": "title_first", "max_length": 224},
]


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_exported_rows_are_those_of_training(family: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_encoder(tmp_path, family, hidden=16))
    comments, titles = texts()["comment"].to_pylist(), texts()["title"].to_pylist()
    for settings in LENGTHS:
        data = DataConfig(**settings)
        expected = tokenize(texts(), tokenizer, data)
        rows = encode_texts(plain_backend(tokenizer), comments, titles, data)
        assert [ids for ids, _ in rows] == expected["input_ids"].to_pylist()
        if "token_type_ids" in expected.column_names:
            assert [kinds for _, kinds in rows] == expected["token_type_ids"].to_pylist()
    batch = pad_rows(rows[:9], 1, types=True)
    assert batch["attention_mask"].sum(axis=1).tolist() == [len(ids) for ids, _ in rows[:9]]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 1).all()


def test_standalone_file_has_every_name_that_it_uses() -> None:
    """As ruff's F rules see it: undefined, redefined or unused names."""
    for source in (modeling_source(), export_onnx.runner_source()):
        assert "import polarity" not in source and "from polarity" not in source
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9", "-"]
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    with pytest.raises(ValueError, match=r"used but in no part: .*kept_lengths"):
        standalone([ModulePart(portable, without=("OnnxClassifier",))], "")
    with pytest.raises(ValueError, match="defines no nothing"):
        standalone([ModulePart(portable, only=("nothing",))], "")
