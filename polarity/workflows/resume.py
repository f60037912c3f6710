"""`polarity train --resume`: the configuration of the run in the folder, with only what may change in a resumed run."""

from typing import Any

from polarity.artifacts import CONFIG, RunFolder
from polarity.config import Config
from polarity.errors import ConfigError, RunError
from polarity.resolve import parse_config

_FREE = {"--workers", "--max-steps"}


def resumed_configuration(run_dir: str | None, given: dict[str, Any], sets: list[str]) -> Config:
    """The run's own config.yaml; raises ConfigError where an option that decides its numbers is given anew.

    The number of workers may change, because results do not depend on it (`given["--workers"]` is a pair, the least and the most or
    None), and so may the step limit (but a run that it cut inside an epoch cannot go on).
    """
    if not run_dir:
        raise RunError("--resume needs --run-dir: which run is to go on?")
    refused = [name for name, value in given.items() if value is not None and name not in _FREE]
    if refused or sets:
        raise ConfigError(f"--resume takes the run's own settings; leave out {', '.join(refused + ['--set'] * bool(sets))}")
    folder = RunFolder.create(run_dir, resume=True)
    config = parse_config(folder.read_text(CONFIG), f"{folder.uri}/{CONFIG}")
    update: dict[str, Any] = config.model_dump()
    if given.get("--workers") is not None:
        update["cluster"]["workers"], update["cluster"]["max_workers"] = given["--workers"]
    if given.get("--max-steps") is not None:
        update["train"]["max_steps"] = given["--max-steps"]
    return Config.model_validate(update)
