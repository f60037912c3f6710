"""Which places of a configuration are local, and how they read from any folder.

A run may go on in another folder (a restart by Slurm or cron begins in $HOME), and its workers stand in folders of their own: so what a run
keeps and hands on names every local place absolutely.
"""

import os
from pathlib import Path

from polarity.config import Config
from polarity.strategy import with_settings

OFFLINE_PREFIX = "offline:"
DATA_KEYS = ("data.source", "data.train", "data.validation", "data.test")
_SQLITE, _FILE = "sqlite:///", "file:"


def is_local_data(name: str) -> bool:
    """Whether a data source is a file or folder: neither the sample corpus, nor on the hub, nor a URI."""
    return not (is_sample(name) or name.startswith("hf:") or "://" in name)


def is_sample(name: str) -> bool:
    """Whether a data source is the synthetic corpus, whose scores say nothing of real comments."""
    return name == "sample" or name.startswith("sample:")


def is_local_encoder(name: str) -> bool:
    """Whether an encoder's name means a folder: one that exists here, or what no name on the hub looks like."""
    if name.startswith(OFFLINE_PREFIX):
        return False
    looks_local = name.startswith((".", "~", os.sep)) or name.count(os.sep) >= 2 or name.endswith(os.sep) or not name.strip()
    return looks_local or os.path.exists(os.path.expanduser(name))


def absolute(path: str) -> str:
    """A path from the root, without `~`; symbolic links are kept, and so is `..`, which may lead out of one. A URI stays as it is."""
    return path if "://" in path else str(Path(os.path.expanduser(path)).absolute())


def absolute_tracking(uri: str) -> str:
    """MLflow's tracking URI, absolute where it is a SQLite file or a folder."""
    if uri.startswith(_SQLITE):
        file, mark, query = uri.removeprefix(_SQLITE).partition("?")
        return uri if not file or file.startswith(("/", ":memory:", "file:")) else f"{_SQLITE}{absolute(file)}{mark}{query}"
    if uri.startswith(_FILE) and not uri.startswith("file:/"):
        return f"file://{absolute(uri.removeprefix(_FILE))}"
    is_folder = "://" not in uri and not uri.startswith((_FILE, "databricks", "uc"))
    return absolute(uri) if is_folder else uri


def with_absolute_paths(config: Config) -> Config:
    """The configuration with every local place absolute."""
    changes: dict[str, str] = {}
    for key in DATA_KEYS:
        source = getattr(config.data, key.removeprefix("data."))
        if source is not None and is_local_data(source):
            changes[key] = absolute(source)
    if is_local_encoder(config.model.encoder):
        changes["model.encoder"] = absolute(config.model.encoder)
    if config.data.shard_dir is not None:
        changes["data.shard_dir"] = absolute(config.data.shard_dir)
    if config.tracking.mlflow is not None:
        changes["tracking.mlflow"] = absolute_tracking(config.tracking.mlflow)
    return with_settings(config, changes)


def typed(given: Config, kept: Config) -> dict[str, str | None]:
    """{dotted key: what the user gave} of the places that `kept` names otherwise."""
    return {key: before for key, before in _places(given).items() if before != _places(kept)[key]}


def _places(config: Config) -> dict[str, str | None]:
    data = {key: getattr(config.data, key.removeprefix("data.")) for key in DATA_KEYS}
    model, tracking = config.model, config.tracking
    return {**data, "model.encoder": model.encoder, "model.revision": model.revision, "tracking.mlflow": tracking.mlflow}
