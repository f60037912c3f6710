"""`polarity train --resume`: the configuration of the run in the folder, with only what may change in a resumed run."""

import os
from typing import Any

from polarity.artifacts import CONFIG, RunFolder
from polarity.config import Config
from polarity.errors import ConfigError, RunError
from polarity.paths import DATA_KEYS, is_local_data, typed, with_absolute_paths
from polarity.resolve import dump_config
from polarity.run import Run

_PLACES = {"--data": "source", "--train": "train", "--validation": "validation", "--test": "test"}
_FREE = {*_PLACES, "--encoder", "--workers", "--max-steps"}


def resumed_configuration(run_dir: str | None, given: dict[str, Any], sets: list[str]) -> Config:
    """The run's own config.yaml; raises ConfigError where an option that decides its numbers is given anew.

    The number of workers may change, because results do not depend on it (`given["--workers"]` is a pair, the least and the most or
    None), and so may the step limit (but a run that it cut inside an epoch cannot go on). Data and encoder may have been moved; new places
    are written into the run's config.yaml, so that later commands find them too.
    """
    if not run_dir:
        raise RunError("--resume needs --run-dir: which run is to go on?")
    refused = [name for name, value in given.items() if value is not None and name not in _FREE]
    if refused or sets:
        raise ConfigError(f"--resume takes the run's own settings; leave out {', '.join(refused + ['--set'] * bool(sets))}")
    folder = RunFolder.create(run_dir, resume=True)
    kept = Run(folder).config
    moved = _with_new_places(kept, given)
    _check_places(moved)
    if moved != kept:
        folder.write_text(CONFIG, dump_config(moved, typed(kept, moved)))
    update: dict[str, Any] = moved.model_dump()
    if given.get("--workers") is not None:
        update["cluster"]["workers"], update["cluster"]["max_workers"] = given["--workers"]
    if given.get("--max-steps") is not None:
        update["train"]["max_steps"] = given["--max-steps"]
    return Config.model_validate(update)


def _with_new_places(config: Config, given: dict[str, Any]) -> Config:
    """The configuration with the places that are given, absolute."""
    tree: dict[str, Any] = config.model_dump()
    for option, key in _PLACES.items():
        if given.get(option) is None:
            continue
        if tree["data"][key] is None:
            own = ", ".join(name for name, other in _PLACES.items() if tree["data"][other] is not None)
            raise ConfigError(f"{option}: the run began without it; it has {own}: give its new place")
        tree["data"][key] = given[option]
    if given.get("--encoder") is not None:
        tree["model"].update(encoder=given["--encoder"], revision=None)
    return with_absolute_paths(Config.model_validate(tree)) if tree != config.model_dump() else config


def _check_places(config: Config) -> None:
    """Raise ConfigError where the run's data is gone, with the way out."""
    for option, key in zip(_PLACES, DATA_KEYS, strict=True):
        place = getattr(config.data, key.removeprefix("data."))
        if place is not None and is_local_data(place) and not os.path.exists(place):
            raise ConfigError(f"{key}: {place}: no such file; if the run's data was moved, name its new place with {option}")
