"""What a training is asked for, as its workers get it. Light to import: the driver has no use for the model."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from polarity.artifacts import CHECKPOINTS, RunFolder
from polarity.config import Config
from polarity.data.batch import Shards
from polarity.data.ledger import TaskStatistics
from polarity.encoders import EncoderFiles

Listener = Callable[[Mapping[str, float]], None]
"""Called with each epoch's metrics."""


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs. `parts` are tokenized tables by name, or the shards that hold them; `run_dir` is reachable
    from every worker.

    `encoder` is what the driver resolved and checked: a worker takes these files and no other, see `same_encoder`.
    `pad_id`: of the tokenizer, which takes a worker a second to load and is needed for the tokens alone.
    `keep_model`: whether the model itself is written and the run tracked; a study's trials are judged by their predictions, and their
    models would fill the disk, their curves (thousands of files in a study of 180 trials) every tracker: study.json has them.
    """

    config: Config
    parts: Mapping[str, pa.Table | Shards]
    statistics: dict[str, TaskStatistics]
    run_dir: str
    encoder: EncoderFiles
    pad_id: int = field(kw_only=True)
    keep_model: bool = True

    def tables(self) -> dict[str, pa.Table]:
        """The parts as tables; shards are mapped."""
        return {name: part if isinstance(part, pa.Table) else part.table() for name, part in self.parts.items()}


def checkpoint_names(folder: RunFolder) -> list[str]:
    """The run's checkpoints, oldest first."""
    return [name for name in folder.list(CHECKPOINTS) if re.fullmatch(r"epoch_\d+(_step_\d+)?", name)]
