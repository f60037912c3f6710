"""A small training for the faults: a random encoder, synthetic rows, and steps slow enough that a fault can strike between them."""

from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
SETTINGS = {
    "train.precision": "fp32", "train.resamples": "100", "train.log_every": "1", "train.early_stopping_patience": "null",
    "train.global_batch_size": "32", "train.micro_batch_size": "8", "data.max_length": "96", "data.max_title": "8",
    "data.split.kind": "joint", "optim.lr": "0.0003",
    "cluster.checkpoint_minutes": "0.05", "cluster.grace_s": "20", "cluster.stall_minutes": "0.25", "cluster.max_failures": "3",
    "cluster.start_timeout_s": "30",
}  # fmt: skip
"""Of the small training; a checkpoint every three seconds, and a worker that is silent for fifteen is hung."""


def make_encoder(folder: Path, *, hidden: int = 256, layers: int = 3) -> Path:
    """Saves a BERT with random weights that reads letters; returns the folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def options(encoder: Path, *, rows: int, epochs: int) -> list[str]:
    """The options of `polarity train`, all but the number of workers and the run's folder."""
    sets = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    return ["--preset", "small", "--encoder", str(encoder), "--data", f"sample:{rows}", "--epochs", str(epochs), *sets]
