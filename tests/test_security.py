"""What the threat model (polarity/SECURITY.md) promises, tried: foreign files run no code, secrets stay put, nothing listens unasked."""

import ast
import inspect
import json
import pickle
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import polarity
from polarity.artifacts import ENVIRONMENT, METRICS, PREDICTIONS, RunFolder, column_of_objects, has_secret
from polarity.config import ModelConfig
from polarity.data.read import read_comments
from polarity.encoders import load_tokenizer, resolve_encoder
from polarity.errors import ConfigError, PolarityError, RunError
from polarity.model.multitask import MultitaskModel
from polarity.ops.submit import entrypoint, variables_of
from polarity.resolve import resolve
from polarity.workflows.train import train
from polarity.yaml_text import parse_yaml
from tests.tiny import DEFAULT_TASKS, tiny_comments, tiny_encoder

SETTINGS = (
    "train.precision=fp32", "train.resamples=100", "train.log_every=1", "train.epochs=1", "cluster.workers=0", "data.source=sample:300",
)  # fmt: skip
ROOT = Path(polarity.__file__).parents[1]


def nothing(line: str) -> None:
    """A listener that keeps nothing."""


class Bomb:
    """Unpickling it makes the file `mark`: what a stranger's pickle could do is anything."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_the_bomb_works(tmp_path: Path) -> None:
    """Else the tests below could not fail."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


# ---------------------------------------------------------------- files of others


def test_a_pickle_in_a_checkpoint_is_not_run_by_a_resume(tmp_path: Path) -> None:
    config = resolve("small", sets=[*SETTINGS, f"model.encoder={tiny_encoder(tmp_path / 'encoder', hidden=16)}"]).config
    run, mark = tmp_path / "run", tmp_path / "mark"
    train(config, str(run), say=nothing)
    (run / METRICS).unlink()
    states = list((run / "checkpoints").rglob("optimizer.pt"))
    assert states
    for path in states:
        torch.save({"optimizer": {"state": Bomb(mark)}, "scaler": {}}, path)
    with pytest.raises(RunError, match="checkpoint"):
        train(config, str(run), resume=True, say=nothing)
    assert not mark.exists()


def objects(values: list[bytes]) -> pa.Array:
    """A column that Ray Data, once it is imported, takes for pickled Python objects."""
    from ray.data.extensions.object_extension import ArrowPythonObjectType

    return pa.ExtensionArray.from_storage(ArrowPythonObjectType(), pa.array(values, pa.large_binary()))


def poisoned(path: Path, column: str, mark: Path, rows: int = 20) -> Path:
    """A labelled Parquet file with a bomb in each row of one column."""
    table = pa.table(
        {
            "row_id": [f"r{i}" for i in range(rows)],
            "Title": ["rice"] * rows,
            "Comment": [f"sana {i}" for i in range(rows)],
            "Final Sentiment": ["neutral"] * rows,
            "Final Polarization": ["objective"] * rows,
        }
    )
    bombs = objects([pickle.dumps(Bomb(mark))] * rows)
    place = table.column_names.index(column) if column in table.column_names else table.num_columns
    table = table.set_column(place, column, bombs) if place < table.num_columns else table.append_column(column, bombs)
    pq.write_table(table, path)
    assert column_of_objects(pq.read_schema(path)) == column
    return path


@pytest.mark.parametrize("column", ["Comment", "Title", "row_id", "Final Sentiment", "other"])
def test_pickled_objects_in_a_data_file_are_not_run(column: str, tmp_path: Path) -> None:
    path, mark = poisoned(tmp_path / "rows.parquet", column, tmp_path / "mark"), tmp_path / "mark"
    data = resolve("small").config.data
    with suppress(PolarityError):  # a refusal is as good as a harmless success
        read_comments(str(path), data, say=nothing)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_pickled_objects_beside_the_comments_are_not_run_by_a_prediction(name: str, tmp_path: Path) -> None:
    """Predict carries all columns over, whatever they hold."""
    from polarity.predict.batch import ScoreOptions
    from polarity.workflows.predict import PredictOptions, predict
    from tests.trained import trained_run

    run, mark = trained_run(tmp_path / "run"), tmp_path / "mark"
    path = poisoned(tmp_path / "rows.parquet", "other", mark)
    options = ScoreOptions(str(run), device="cpu")
    with suppress(PolarityError):  # a refusal is as good as a harmless success
        predict(options, str(path), str(tmp_path / name), PredictOptions(workers=0), say=nothing)
    assert not mark.exists()


def test_pickled_objects_in_the_cache_of_tokens_are_not_run(tmp_path: Path) -> None:
    """A cache that several people share; its file has the right name, fingerprint and digest's place."""
    from polarity.data.tokenize import tokenize

    tokenizer, mark = load_tokenizer(tiny_encoder(tmp_path / "encoder", hidden=16)), tmp_path / "mark"
    data, comments, said = resolve("small").config.data, tiny_comments(20), list[str]()
    right = tokenize(comments, tokenizer, data, cache_dir=tmp_path / "cache")
    path = next((tmp_path / "cache").rglob("*.arrow"))
    kept = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    for place, name in enumerate(kept.column_names):
        bad = kept.set_column(place, name, objects([pickle.dumps(Bomb(mark))] * 20)).replace_schema_metadata(kept.schema.metadata)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, bad.schema) as writer:
            writer.write_table(bad)
        assert tokenize(comments, tokenizer, data, cache_dir=tmp_path / "cache", say=said.append).equals(right)
    assert len(said) == kept.num_columns and not mark.exists()


def test_pickled_objects_in_a_run_are_refused(tmp_path: Path) -> None:
    folder, mark = RunFolder.create(tmp_path / "run"), tmp_path / "mark"
    for name, column in {"plain.parquet": objects([pickle.dumps(Bomb(mark))]), "nested.parquet": None}.items():
        bombs = objects([pickle.dumps(Bomb(mark))]) if column is None else column
        values = pa.StructArray.from_arrays([bombs], ["inner"]) if column is None else bombs
        folder.write_parquet(name, pa.table({"row_id": values}))
        with pytest.raises(RunError, match="'row_id' holds Python objects"):
            folder.read_parquet(name)
    folder.write_parquet(PREDICTIONS, pa.table({"row_id": ["a"]}))
    assert folder.read_parquet(PREDICTIONS)["row_id"].to_pylist() == ["a"]
    assert not mark.exists()


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_in_an_encoders_folder_is_not_run(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a repository on the hub would carry it: `auto_map` names a module beside the weights."""
    folder, mark = tiny_encoder(tmp_path / "encoder", hidden=16), tmp_path / "mark"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nEvil = EvilFast = None\n")
    settings = json.loads((folder / where).read_text())
    kinds = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.EvilFast"]}
    (folder / where).write_text(json.dumps({**settings, "auto_map": kinds}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks whom it does not know
    with suppress(PolarityError):  # a refusal is as good as a harmless success
        load_tokenizer(resolve_encoder(str(folder)).folder)
    with suppress(PolarityError):  # a refusal is as good as a harmless success
        MultitaskModel.from_encoder(folder, ModelConfig(encoder=str(folder)), DEFAULT_TASKS, seed=0)
    assert not mark.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:pathlib.Path.touch", "!!python/object/new:pathlib.Path", "!!python/name:os.system"])
def test_yaml_makes_no_python_objects(tag: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = f"data:\n  source: {tag} [{mark}]\n" if "name" not in tag else f"data:\n  source: {tag}\n"
    with pytest.raises(ConfigError, match="line 2"):
        parse_yaml(text, "given.yaml")
    (tmp_path / "given.yaml").write_text(text)
    with pytest.raises(ConfigError):
        resolve(file=tmp_path / "given.yaml")
    assert not mark.exists()


LOADERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
ALLOWED = {
    # an exception that Ray Tune has just written into a temporary folder of this very process
    ("polarity/tune/ray_tune.py", "cloudpickle.load"),
}


def dangerous(call: ast.Call) -> str | None:
    """The call's name where it could run what a file says."""
    name, given = ast.unparse(call.func), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    owner, _, function = name.rpartition(".")
    loads = owner.split(".")[-1] in LOADERS and function in ("load", "loads", "Unpickler", "open")
    unsafe_torch = name == "torch.load" and given.get("weights_only") != "True"
    unsafe_yaml = owner == "yaml" and function in ("load", "load_all", "unsafe_load", "full_load") and given.get("Loader") != "_Loader"
    flags = given.get("trust_remote_code", "False") != "False" or given.get("allow_pickle", "False") != "False"
    shell = name in ("eval", "exec", "os.system", "os.popen") or given.get("shell") == "True"
    return name if loads or unsafe_torch or unsafe_yaml or flags or shell else None


def test_no_code_of_ours_loads_what_could_run() -> None:
    """A new call of such a kind fails here, and is then either replaced or argued for in ALLOWED."""
    found = set()
    for path in [*(ROOT / "polarity").rglob("*.py"), *(ROOT / "jobs").glob("*.py")]:
        calls = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
        found |= {(path.relative_to(ROOT).as_posix(), name) for call in calls if (name := dangerous(call))}
    assert found == ALLOWED
    bad = "pickle.loads(x); torch.load(x); yaml.load(x); np.load(x, allow_pickle=True); f(trust_remote_code=True); run(x, shell=True)"
    assert len([call for call in ast.walk(ast.parse(bad)) if isinstance(call, ast.Call) and dangerous(call)]) == 6


# ---------------------------------------------------------------- secrets

NAMES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "RAY_AUTH_TOKEN", "DATABASE_PASSWORD",
)  # fmt: skip


def test_no_secret_of_the_environment_is_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Training writes configuration, environment, metrics, history, predictions, model, report; none knows the variables' values."""
    hidden = {name: f"s3cret-{secrets.token_hex(12)}" for name in NAMES}
    for name, value in hidden.items():
        monkeypatch.setenv(name, value)
    config = resolve("small", sets=[*SETTINGS, f"model.encoder={tiny_encoder(tmp_path / 'encoder', hidden=16)}"]).config
    train(config, str(tmp_path / "run"), say=print)
    said = "".join(capfd.readouterr())
    assert "macro-F1" in said
    files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert "run/report.html" in files and f"run/{ENVIRONMENT}" in files
    for name, value in hidden.items():
        assert value not in said, name
        assert not [path for path, content in files.items() if value.encode() in content], name
    assert "environ" not in json.loads(files[f"run/{ENVIRONMENT}"])


@pytest.mark.parametrize(
    ("uri", "secret"),
    [
        ("s3://AKIA123:wJalrXUtn%2FEMI@bucket/runs", "wJalrXUtn"),
        ("s3://AKIA123:wJal/rXUtn@bucket/runs", "rXUtn"),
        ("abfs://:aGVsbG8@account.dfs.core.windows.net/runs", "aGVsbG8"),
        ("abfs://files@account.dfs.core.windows.net/runs?client_secret=aGVsbG8", "aGVsbG8"),
        ("https://account.blob.core.windows.net/runs?sv=2024&sig=aGVsbG8", "aGVsbG8"),
    ],
)
def test_a_password_in_a_run_folders_address_is_refused_and_not_repeated(
    uri: str, secret: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = resolve("small", sets=[*SETTINGS, f"model.encoder={tiny_encoder(tmp_path / 'encoder', hidden=16)}"]).config
    for act in (lambda: train(config, uri, say=print), lambda: RunFolder.open(uri), lambda: RunFolder.at(uri)):
        with pytest.raises(RunError, match="AWS_SECRET_ACCESS_KEY") as refusal:
            act()
        assert secret not in str(refusal.value)
    with pytest.raises(RunError, match="--env") as refusal:
        entrypoint("train", ["--run-dir", uri], ROOT)
    assert secret not in str(refusal.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize("key", ["data.source", "model.encoder"])
@pytest.mark.parametrize("uri", ["https://me:hunter2/x@host/rows.csv", "https://host/rows.csv?sig=hunter2&x=1"])
def test_a_password_in_an_address_of_data_or_encoder_is_not_repeated(
    key: str, uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sets = [*SETTINGS, f"model.encoder={tiny_encoder(tmp_path / 'encoder', hidden=16)}", f"{key}={uri}"]
    with pytest.raises(PolarityError) as refusal:
        train(resolve("small", sets=sets).config, str(tmp_path / "run"), say=print)
    assert "hunter2" not in str(refusal.value) + repr(pickle.loads(pickle.dumps(refusal.value))) + "".join(capfd.readouterr())
    assert "host/rows.csv" in str(refusal.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/runs/first", "s3://bucket:9000/a@b/c", "hdfs://user@host:8020/runs", "hdfs://host:8020/user@x/runs", "/tmp/a:b@c",
        "gs://bucket/runs?retry_limit_seconds=5", "abfs://files@account.dfs.core.windows.net/runs", "http://127.0.0.1:8265",
        "file:///tmp/token=1/x", "runs/first",
    ],
)  # fmt: skip
def test_an_address_without_a_password_is_none_with_one(uri: str) -> None:
    assert not has_secret(uri)


def test_a_jobs_variable_can_stay_out_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "abc=def")
    assert variables_of(["HF_TOKEN", "PLAIN=a=b", "EMPTY="]) == {"HF_TOKEN": "abc=def", "PLAIN": "a=b", "EMPTY": ""}
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RunError, match="HF_TOKEN: is not set"):
        variables_of(["HF_TOKEN"])


def test_a_job_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no job 'trian'.*train, ablate.*--root"):
        entrypoint("trian", [], ROOT)
    with pytest.raises(RunError, match="--root"):
        entrypoint("train", [], tmp_path)
    assert entrypoint("train", ["--set", "data.title_column=a b"], ROOT) == "python jobs/train.py --set 'data.title_column=a b'"


# ---------------------------------------------------------------- ports


def test_serve_listens_on_this_machine_alone_unless_told() -> None:
    from polarity.cli.runs import serve

    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"


def test_training_in_this_process_opens_no_port(tmp_path: Path) -> None:
    """`--workers 0`; Ray's own ports are Ray's, and polarity/SECURITY.md says what to close."""
    before = own_ports()
    config = resolve("small", sets=[*SETTINGS, f"model.encoder={tiny_encoder(tmp_path / 'encoder', hidden=16)}"]).config
    seen: list[set[int]] = []
    train(config, str(tmp_path / "run"), say=lambda _: seen.append(own_ports()))
    assert len(seen) > 5 and set().union(*seen) <= before


def own_ports() -> set[int]:
    """The ports on which this process listens."""
    return {c.laddr.port for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}
