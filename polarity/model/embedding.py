"""Sentence vectors of a frozen encoder: masked means of the token states of several layers, side by side.

Lower layers know the words and upper layers the sense; on real rows three layers together were a point better than the last alone.
Shapes: N texts, B of a batch, L tokens, D hidden size.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from polarity.encoders import check_folder, load_tokenizer, transformers_quiet

MAX_TOKENS = 96
BATCH = 16


@dataclass(frozen=True)
class Embedder:
    """A frozen encoder with its tokenizer, on its device; `folder` holds its files."""

    encoder: Any
    tokenizer: Any
    layers: tuple[int, ...]
    folder: Path
    device: torch.device

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "Embedder":
        """From an encoder's folder. Raises EncoderError where it is not a whole one."""
        check_folder(folder, str(folder))
        tokenizer = load_tokenizer(folder)
        with transformers_quiet():
            encoder: Any = AutoModel.from_pretrained(folder, dtype=torch.float32)
        encoder.train(False)
        count = int(encoder.config.num_hidden_layers)
        layers = tuple(sorted({-(-count // 2), -(-3 * count // 4), count}))
        return cls(encoder.to(device), tokenizer, layers, folder, device)

    def save(self, folder: Path) -> None:
        """Copy the encoder's files into an existing folder."""
        for file in self.folder.iterdir():
            if file.is_file() and file.suffix in {".json", ".safetensors", ".txt", ".model"}:
                shutil.copy(file, folder / file.name)

    def features(self, comments: list[str], titles: list[str]) -> NDArray[np.float32]:
        """The comments' vectors of every layer and the titles' of the last: (N, (layers + 1) x D). An empty title is zeros."""
        distinct = sorted({title for title in titles if title.strip()})
        place = {title: row for row, title in enumerate(distinct)}
        width = int(self.encoder.config.hidden_size)
        of_titles = np.zeros((len(distinct) + 1, width), np.float32)
        if distinct:
            of_titles[:-1] = self._embed(distinct)[:, -width:]
        rows = [place.get(title, len(distinct)) for title in titles]
        return np.concatenate([self._embed(comments), of_titles[rows]], axis=1)

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        """(N, layers x D), in batches of similar length."""
        limit = min(MAX_TOKENS, int(getattr(self.encoder.config, "max_position_embeddings", MAX_TOKENS)) - 2)
        ids = self.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
        order = np.argsort([-len(row) for row in ids], kind="stable")
        found = np.empty((len(texts), len(self.layers) * int(self.encoder.config.hidden_size)), np.float32)
        for at in range(0, len(order), BATCH):
            rows = order[at : at + BATCH]
            batch = self.tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt").to(self.device)
            states = self.encoder(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
            ).hidden_states
            mask_BL1 = batch["attention_mask"].unsqueeze(-1).float()
            means = [(states[layer].float() * mask_BL1).sum(1) / mask_BL1.sum(1) for layer in self.layers]
            found[rows] = torch.cat(means, dim=1).cpu().numpy()
        return found
