"""Prediction speed: this package's length-sorted batches against the usual loop over batches in file order."""

import torch

from polarity.benchmark.setting import Setting, count_tokens, shuffled
from polarity.benchmark.timing import Contestant, timed
from polarity.data.batch import Rows, evaluation_batches, micro_batches
from polarity.model.inference import to_tensors
from polarity.model.precision import autocast
from polarity.train.validate import predict


def prediction_contestants(setting: Setting) -> dict[str, Contestant]:
    """Each scores all the setting's rows once."""
    corpus, size = setting.corpus, setting.config.train.eval_batch_size
    model = setting.model()
    torch.nn.Module.train(model, False)
    in_order = micro_batches(shuffled(corpus), size)

    def ours() -> dict[str, float]:
        predict(model, corpus, setting.world, batch_size=size, precision=setting.precision)
        return count_tokens(corpus, evaluation_batches(corpus.lengths, size), size)

    def usual() -> dict[str, float]:
        with torch.inference_mode(), autocast(setting.precision, setting.device):
            for rows in in_order:
                _probabilities(setting, model, rows)
        return count_tokens(corpus, in_order, size)

    return {"polarity": timed(ours), "usual loop": timed(usual)}


def _probabilities(setting: Setting, model: torch.nn.Module, rows: Rows) -> None:
    logits = model(**to_tensors(setting.corpus.collate(rows), setting.device))
    for values in logits.values():
        values[0].float().softmax(-1).cpu().numpy()
