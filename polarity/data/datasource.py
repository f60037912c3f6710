"""Ray Data's view of work on a source: one read task a piece, blocks streamed, order preserved. Imported only where Ray is used."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata

from polarity.data.source import Part, Source

Read = Callable[[], Iterator[pa.Table]]


class Pieces(ray.data.Datasource):
    """Read tasks that give what each of `reads` yields."""

    def __init__(self, name: str, reads: Sequence[Read], schema: pa.Schema | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
        self.name, self.reads, self.schema = name, reads, schema

    def get_name(self) -> str:
        """Name in Ray's progress and dashboard."""
        return "Comments"

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: the blocks are bounded, whatever the file."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: ray.data.DataContext | None = None
    ) -> list[ray.data.ReadTask]:
        """One task a piece, whatever the parallelism asked for: more would cut blocks, not work."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=(self.name,))
        return [ray.data.ReadTask(read, metadata, schema=self.schema, per_task_row_limit=per_task_row_limit) for read in self.reads]


def dataset_of(source: Source, blocks: Callable[[Part], Iterator[pa.Table]], schema: pa.Schema) -> ray.data.Dataset:
    """A Ray dataset of the blocks of all parts, in order."""
    return dataset_of_reads(source.name, [partial(blocks, part) for part in source.parts], schema)


def dataset_of_reads(name: str, reads: Sequence[Read], schema: pa.Schema | None = None) -> ray.data.Dataset:
    """A Ray dataset of what each function yields, in order."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True  # without it the order of parts differs from run to run
    context.enable_progress_bars = False
    quiet_console()
    dataset: ray.data.Dataset = ray.data.read_datasource(Pieces(name, reads, schema), override_num_blocks=len(reads))
    return dataset


def quiet_console() -> None:
    """Ray Data's running commentary goes to its own log files alone; what fails is raised."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)
