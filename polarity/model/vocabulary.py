"""A word table of only the rows that training can touch.

A multilingual encoder has a row for each of 100,000 or more pieces, of which a few thousand comments use some thousand. The others get no
gradient, yet gradient, norm, optimizer and the exchange between workers go over all of them, every step. Here they stay outside: all that
training does to them is weight decay, and that is a factor, applied once at the end.

Shapes: V rows of the whole table, U of them in use, D embedding size, B rows, L tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_WORTH = 0.8
"""With a larger share of the rows in use the table stays as it is."""


class UsedRows(nn.Embedding):
    """The rows `used` (U,) of a table, still looked up by the whole table's ids; any other id is an error."""

    def __init__(self, table: nn.Embedding, used: Tensor) -> None:
        places = torch.full((table.num_embeddings,), -1, device=used.device)
        places[used] = torch.arange(len(used), device=used.device)
        padding = None if table.padding_idx is None else int(places[table.padding_idx])
        super().__init__(len(used), table.embedding_dim, padding, _weight=table.weight.detach()[used].clone())
        self.places_V = places  # no buffer: DDP would send it before every step

    def forward(self, input_ids_BL: Tensor) -> Tensor:
        return nn.functional.embedding(self.places_V[input_ids_BL], self.weight, self.padding_idx)


@dataclass(frozen=True)
class WholeTable:
    """What `use_rows` took out of the encoder."""

    encoder: Any
    table: nn.Embedding
    used: Tensor

    @torch.no_grad()
    def restore(self, decay: float) -> None:
        """Put the table back, with the trained rows in it; the others times `decay`, the product of the steps' weight decay."""
        self.table.weight.mul_(decay)
        self.table.weight[self.used] = self.encoder.get_input_embeddings().weight
        self.encoder.set_input_embeddings(self.table)


def use_rows(encoder: Any, ids: NDArray[np.int32]) -> WholeTable | None:
    """Reduce the encoder's word table to the rows of these ids and of padding; None, and nothing done, where that gains little."""
    table = encoder.get_input_embeddings()
    if type(table) is not nn.Embedding:  # another kind may compute more than a look-up
        return None
    padding = [] if table.padding_idx is None else [table.padding_idx]
    used = torch.from_numpy(np.unique(np.append(ids, padding)).astype(np.int64)).to(table.weight.device)
    if len(used) > _WORTH * table.num_embeddings:
        return None
    encoder.set_input_embeddings(UsedRows(table, used))
    return WholeTable(encoder, table, used)
