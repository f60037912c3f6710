"""Ray Data's view of an opened source: one read task a part, blocks streamed, order preserved. Imported only where Ray is used."""

from collections.abc import Callable, Iterator

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata

from polarity.data.source import Part, Source


class CommentsSource(ray.data.Datasource):
    """Read tasks that give `blocks(part)` for each part of a source."""

    def __init__(self, source: Source, blocks: Callable[[Part], Iterator[pa.Table]], schema: pa.Schema) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
        self.source, self.blocks, self.schema = source, blocks, schema

    def get_name(self) -> str:
        """Name in Ray's progress and dashboard."""
        return "Comments"

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: the blocks are bounded, whatever the file."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: ray.data.DataContext | None = None
    ) -> list[ray.data.ReadTask]:
        """One task a part, whatever the parallelism asked for: more would cut blocks, not work."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=(self.source.name,))
        return [
            ray.data.ReadTask(_read(self.blocks, part), metadata, schema=self.schema, per_task_row_limit=per_task_row_limit)
            for part in self.source.parts
        ]


def _read(blocks: Callable[[Part], Iterator[pa.Table]], part: Part) -> Callable[[], Iterator[pa.Table]]:
    return lambda: blocks(part)


def dataset_of(source: Source, blocks: Callable[[Part], Iterator[pa.Table]], schema: pa.Schema) -> ray.data.Dataset:
    """A Ray dataset of the blocks of all parts, in order."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True  # without it the order of parts differs from run to run
    context.enable_progress_bars = False
    datasource = CommentsSource(source, blocks, schema)
    dataset: ray.data.Dataset = ray.data.read_datasource(datasource, override_num_blocks=len(source.parts))
    return dataset
