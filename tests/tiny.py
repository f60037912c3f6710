"""Tiny encoders with random weights, and tiny comments with a learnable signal, made locally: tests download nothing."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

DEFAULT_TASKS: dict[str, list[str]] = {
    "sentiment": ["negative", "neutral", "positive"],
    "polarization": ["non_polarized", "objective", "partisan"],
}
COLUMNS = {"sentiment": "Final Sentiment", "polarization": "Final Polarization"}
FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "rembert")

_FILLER_TEXT = (
    "ang mga tao sa bayan ay nag usap tungkol dito kay at ng na hindi pa rin siya the new road was opened today by a mayor people "
    "said it is about rice prices and jobs in our city unsa man ni oy dili ko kabalo karon"
)
FILLER = _FILLER_TEXT.split()
TITLES = [
    "mayor opens the new road",
    "rice prices rise again",
    "the senate talks about jobs",
    "city hall and the people",
    "karon na ang debate",
]
_WORDS = ["bulok", "sana", "galing", "chill", "datos", "kampon", "mali", "siguro", "mabuti", "kalma", "ulat", "bayaran"]


def marker(task_index: int, class_index: int) -> str:
    """The word that gives a class away."""
    return _WORDS[(task_index * 3 + class_index) % len(_WORDS)]


def tiny_comments(
    rows: int, seed: int = 0, missing: float = 0.1, tasks: dict[str, list[str]] | None = None, titles: int = len(TITLES)
) -> pa.Table:
    """A canonical comments table; each label shows as a marker word in nine of ten comments, `missing` of the labels are null."""
    tasks = DEFAULT_TASKS if tasks is None else tasks
    rng = np.random.default_rng(seed)
    labels = {task: rng.choice(len(names), rows, p=_shares(len(names))) for task, names in tasks.items()}
    known = _known(rng, rows, len(tasks), missing)
    comments = []
    for row in range(rows):
        words = list(rng.choice(FILLER, rng.integers(3, 12)))
        for index, task in enumerate(tasks):
            if rng.random() < 0.9:
                words.insert(int(rng.integers(len(words) + 1)), marker(index, int(labels[task][row])))
        comments.append(" ".join([*words, f"n{row}"]))
    columns: dict[str, Any] = {
        "row_id": pa.array([f"r{row}" for row in range(rows)], pa.large_string()),
        "title": pa.array(
            [TITLES[i % len(TITLES)] + (f" {i}" if i >= len(TITLES) else "") for i in rng.integers(0, titles, rows)], pa.large_string()
        ),
        "comment": pa.array(comments, pa.large_string()),
    }
    for index, task in enumerate(tasks):
        columns[task] = pa.array(labels[task].astype(np.int8), pa.int8(), mask=~known[:, index])
    return pa.table(columns)


def tiny_csv(path: Path, rows: int, seed: int = 0, missing: float = 0.1, titles: int = len(TITLES)) -> Path:
    """The same rows as a CSV with the default column names; a missing label is an empty cell."""
    table = tiny_comments(rows, seed, missing, titles=titles)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "Title", "Comment", *COLUMNS.values()])
        for row in table.to_pylist():
            cells = ["" if row[task] is None else DEFAULT_TASKS[task][row[task]] for task in COLUMNS]
            writer.writerow([row["row_id"], row["title"], row["comment"], *cells])
    return path


def _shares(classes: int) -> np.ndarray:
    weights = 1.0 / np.arange(1, classes + 1)
    return np.asarray(weights / weights.sum())


def _known(rng: np.random.Generator, rows: int, tasks: int, missing: float) -> np.ndarray:
    """Which labels are there: every row keeps at least one."""
    known = rng.random((rows, tasks)) >= missing
    known[np.arange(rows), rng.integers(0, tasks, rows)] = True
    return known


def tiny_encoder(
    folder: Path,
    family: str = "bert",
    *,
    vocab_texts: list[str] | None = None,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 2,
    seed: int = 0,
    positions: int = 512,
) -> Path:
    """Saves a random encoder of the family with a fast tokenizer that knows the tiny comments' words; returns the folder."""
    import torch
    from transformers import AutoModel

    texts = vocab_texts or [" ".join(FILLER), " ".join(_WORDS), *TITLES]
    tokenizer = _tokenizer(family, texts)
    build: Any = AutoModel.from_config
    config = _config(family, tokenizer, hidden, layers, heads, positions)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(family: str, tokenizer: Any, hidden: int, layers: int, heads: int, positions: int) -> Any:
    import transformers

    common = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if family == "distilbert":
        return transformers.DistilBertConfig(
            **common, dim=hidden, n_layers=layers, n_heads=heads, hidden_dim=2 * hidden, max_position_embeddings=positions
        )
    shape: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 2 * hidden,
    }
    if family in ("roberta", "xlm-roberta"):
        cls = transformers.RobertaConfig if family == "roberta" else transformers.XLMRobertaConfig
        return cls(**common, **shape, max_position_embeddings=positions + 2, type_vocab_size=1)
    if family == "rembert":
        return transformers.RemBertConfig(
            **common,
            **shape,
            input_embedding_size=hidden // 2,
            output_embedding_size=hidden,
            max_position_embeddings=positions,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
        )
    return transformers.BertConfig(**common, **shape, max_position_embeddings=positions)


def _tokenizer(family: str, texts: list[str]) -> Any:
    import transformers

    words = sorted({word for text in texts for word in text.lower().split()})
    letters = sorted(set("".join(words)) | set("abcdefghijklmnopqrstuvwxyz0123456789.,!?'"))
    if family in ("bert", "distilbert"):
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *(w for w in words if len(w) > 1)]
        return transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))})
    if family == "roberta":
        return _byte_level(texts)
    counts = Counter(word for text in texts for word in text.lower().split())
    total = sum(counts.values())
    scored = {f"▁{word}": float(np.log(counts[word] / total)) for word in words}
    scored.update({piece: -12.0 for piece in ["▁", *letters] if piece not in scored})
    if family == "xlm-roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        return transformers.XLMRobertaTokenizer(vocab=[*((s, 0.0) for s in special), *scored.items()])
    if family == "rembert":
        special = ["<pad>", "[CLS]", "<unk>", "[SEP]", "[MASK]"]
        return transformers.RemBertTokenizer(vocab=[*((s, 0.0) for s in special), *scored.items()])
    raise ValueError(f"no tiny encoder of family {family!r}; known: {', '.join(FAMILIES)}")


def _byte_level(texts: list[str]) -> Any:
    import json

    import transformers
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts, vocab_size=500, min_frequency=1, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False
    )
    model = json.loads(bpe.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]
    return transformers.RobertaTokenizer(vocab=model["vocab"], merges=merges)
