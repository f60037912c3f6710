"""Hugging Face datasets: a folder saved by `datasets.save_to_disk`, or `hf:NAME@SPLIT` from the hub."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from polarity.data.source import ROWS_PER_BLOCK, Part, Source, positions, readable
from polarity.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

SAVED = ("state.json", "dataset_dict.json")
"""Files that `save_to_disk` leaves in the folder of a dataset, or of one with several splits."""


def open_saved(name: str, folder: Path) -> Source:
    """Open a folder written by `datasets.save_to_disk`; raises DataError where it has several splits or is damaged."""
    return _open(name, partial(_load_saved, name, folder))


def open_hub(name: str) -> Source:
    """Open `hf:NAME` or `hf:NAME@SPLIT`; raises DataError where the hub, the dataset or the split cannot be had."""
    dataset, _, split = name.removeprefix("hf:").partition("@")
    if not dataset:
        raise DataError(f"{name!r}: no dataset is named: write hf:NAME or hf:NAME@SPLIT")
    return _open(name, partial(_load_hub, name, dataset, split or None))


def _open(name: str, load: Callable[[], "Dataset"]) -> Source:
    if find_spec("datasets") is None:
        raise DataError(f"{name}: reading it needs the package `datasets`: pip install datasets")
    loaded = load()
    if len(loaded) == 0:
        raise DataError(f"{name}: the dataset has no rows")
    return Source(name=name, columns=tuple(loaded.column_names), unit="row", parts=(Part(0, partial(_blocks, load)),), locate=positions)


def _load_saved(name: str, folder: Path) -> "Dataset":
    from datasets import load_from_disk

    splits = folder / "dataset_dict.json"
    with readable(name):
        if splits.is_file():
            names = json.loads(splits.read_text(encoding="utf-8")).get("splits", [])
            if len(names) != 1:
                raise DataError(f"{name}: holds the splits {', '.join(names)}: name the folder of one, such as {Path(name, names[0])}")
            folder = folder / names[0]
        try:
            return load_from_disk(str(folder))
        except (pa.ArrowInvalid, ValueError, KeyError) as error:
            raise DataError(f"{name}: the saved dataset is damaged: {error}: save it again") from error


def _load_hub(name: str, dataset: str, split: str | None) -> "Dataset":
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        loaded = datasets.load_dataset(dataset, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        advice = "check the name, or log in with `hf auth login`"
        raise DataError(f"{name}: the hub has no dataset {dataset!r} that you may read: {advice}") from error
    except (ConnectionError, HfHubHTTPError) as error:
        advice = "check the connection, or give a file, or a folder that was saved elsewhere by `datasets.save_to_disk`"
        raise DataError(f"{name}: the Hugging Face hub cannot be reached ({_first_line(error)}): {advice}") from error
    except ValueError as error:
        raise DataError(f"{name}: {_first_line(error)}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if len(loaded) != 1:
            raise DataError(f"{name}: holds the splits {', '.join(loaded)}: name one, such as hf:{dataset}@{next(iter(loaded))}")
        return next(iter(loaded.values()))
    return loaded


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _blocks(load: Callable[[], "Dataset"], columns: Sequence[str]) -> Iterator[pa.Table]:
    dataset = load().select_columns(list(columns))
    names = {column: feature.names for column, feature in dataset.features.items() if hasattr(feature, "names")}
    for block in dataset.with_format("arrow").iter(batch_size=ROWS_PER_BLOCK):
        yield name_classes(block, names)


def name_classes(block: pa.Table, names: dict[str, list[str]]) -> pa.Table:
    """Replace the integers of `ClassLabel` columns by the class names; -1, the mark of no label, becomes null."""
    for column, classes in names.items():
        if column in block.column_names and pa.types.is_integer(block[column].type):
            values = block[column]
            labelled = pc.if_else(pc.and_(pc.greater_equal(values, 0), pc.less(values, len(classes))), values, None)
            text = pc.take(pa.array(classes, pa.large_string()), labelled)
            block = block.set_column(block.column_names.index(column), column, text)
    return block


def class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """{column: classes} of the `ClassLabel` features that `datasets` notes in the schema of the Parquet files it writes."""
    noted = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    features = noted.get("info", {}).get("features", {})
    return {c: f["names"] for c, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel" and "names" in f}


def not_a_dataset(name: str, folder: Path) -> str:
    """What to say of a folder that is no saved dataset."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    inside = f"it holds {', '.join(files[:5])}{', ...' if len(files) > 5 else ''}: name one file" if files else "it holds no file"
    return f"{name}: is a folder, and not one saved by `datasets.save_to_disk`: {inside}"
