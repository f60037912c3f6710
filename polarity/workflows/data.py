"""`polarity data check` and `polarity data oversample`."""

import json
from collections.abc import Callable
from pathlib import Path

from polarity.config import Config
from polarity.data.check import check_source
from polarity.data.check import render as render_check
from polarity.data.oversample_file import write_oversampled
from polarity.data.split import check_columns
from polarity.encoders import load_tokenizer, resolve_encoder
from polarity.errors import ConfigError


def check(config: Config, *, encoder: str | None, as_json: bool, progress: Callable[[str], None] | None = None) -> str:
    """The check of the configured source, or of the user's own parts, as tables or JSON; tokens are counted where an encoder is given."""
    data = config.data
    parts = {name: path for name in ("train", "validation", "test") if (path := getattr(data, name))}
    source = parts or data.source
    if not source:
        raise ConfigError("no data: give a FILE, or --train FILE --validation FILE")
    tokenizer = load_tokenizer(resolve_encoder(encoder).folder) if encoder else None
    found = check_source(source, data, tokenizer, progress)
    return json.dumps(found, indent=2, ensure_ascii=False) if as_json else render_check(found)


def oversample(source: str, config: Config, out: Path, *, epoch: int, overwrite: bool, say: Callable[[str], None]) -> None:
    """Write the table of one epoch (from 0) through Ray Data."""
    from polarity.train.cluster import start_ray

    check_columns(config.data.model_copy(update={"source": source}))
    start_ray(config.cluster, say)
    write_oversampled(source, config.data, out, seed=config.train.seed, epoch=epoch, say=say, overwrite=overwrite)
