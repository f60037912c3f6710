"""Ray Data's view of work on a source: one read task a piece, blocks streamed, order preserved. Imported only where Ray is used."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata

from polarity.data.read import original_error
from polarity.data.survey import Piece, Reading

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


def run_in_tasks(pieces: Sequence[Piece], given: Sequence[tuple[Any, ...]], reading: Reading, shared: object) -> Iterator[pa.Table]:
    """`survey.run` by Ray Data: a task a piece, whose blocks come in the order of the pieces; `shared` is sent once."""
    ordered_context()
    reference = None if shared is None else ray.put(shared)
    reads = [_task(reading, piece, ray.put(own), reference) for piece, own in zip(pieces, given, strict=True)]
    dataset = ray.data.read_datasource(Pieces(pieces[0].source.name, reads, None), override_num_blocks=len(reads))
    with original_error():
        for block in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
            if isinstance(block, pa.Table) and block.num_rows:
                yield block


def _task(reading: Reading, piece: Piece, given: "ray.ObjectRef[Any]", shared: "ray.ObjectRef[Any] | None") -> Read:
    """A read task's function. Its arguments are references: Ray copies a task's own content many times, and asks that it be small."""

    def read() -> Iterator[pa.Table]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a task has one CPU, and threads that wait for another's take turns on it
        yield from reading(piece, *ray.get(given), *([] if shared is None else [ray.get(shared)]))

    return read


def ordered_context() -> ray.data.DataContext:
    """Ray Data's settings, with the order of blocks kept, without which it differs from run to run, and nothing on the console."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    quiet_console()
    return context


def quiet_console() -> None:
    """Ray Data's running commentary goes to its own log files alone; what fails is raised."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)
