"""A whole step of all ten points against loops over its rows: R-Drop x mixup x samples x missing labels x weights x accumulation.

Without dropout both passes and all samples of a row are the same, so the step's loss is the classification loss of the mixed rows alone,
which can be written down row by row; its gradient comes from torch's autograd of those loops.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polarity.config import Config
from polarity.data.batch import Corpus, global_batches, micro_batches, mixup_draw
from polarity.model.inference import to_tensors
from polarity.model.multitask import MultitaskModel
from polarity.train.loop import Stepper, Tables
from polarity.train.world import World
from tests.train.runs import configured, fresh_model, stepper, tables

STEP, ALPHA = 5, 0.6
CPU = torch.device("cpu")
GAMMAS = {"sentiment": ([1.0, 2.5, 4.0], [1.0, 1.3, 0.6]), "polarization": ([2.5, 1.25, 3.0], [0.8, 1.1, 1.0])}


def config(mixup: float) -> Config:
    """All ten points with heads that are narrow and drop nothing, and three micro-batches of unlike size."""
    found = configured(tuple(range(1, 11)), train={"global_batch_size": 15, "micro_batch_size": 5, "sort_pool": 0})
    tree = found.model_dump()
    tree["model"]["head"].update(hidden_size=12, intermediate_size=16)
    tree["model"]["dropout"] = 0.0
    tree["loss"]["mixup_alpha"] = mixup
    return Config.model_validate(tree)


def without_dropout(config: Config) -> MultitaskModel:
    model = fresh_model(config).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    model.encoder.config.attention_probs_dropout_prob = 0.0
    with torch.no_grad():  # heads that tell the classes apart: fresh ones give a third to each
        for head in model.heads.values():
            head.out.weight.mul_(100.0)
    return model


def adapted(config: Config, parts: Tables, model: MultitaskModel) -> Stepper:
    """A stepper in whose objectives adaptive gamma has moved."""
    found = stepper(config, parts, model, World())
    for task, (gammas, factors) in GAMMAS.items():
        objective = found.objectives[task]
        objective.gamma.gammas, objective.gamma.factors = gammas, factors
        objective.refresh()
    return found


def rows_with_gaps(corpus: Corpus, config: Config, size: int) -> np.ndarray:
    """A batch in which both tasks lack labels."""
    for rows in global_batches(corpus, config, 0):
        if all((corpus.labels[task][rows[:size]] < 0).any() for task in config.labels):
            return rows[:size]
    raise AssertionError("every batch has all labels")


def row_loss(logits_K: Tensor, y: int, weight: float, gamma: float, factor: float, epsilon: float) -> Tensor:
    """STRATEGY.md's formula for one row."""
    p_K = logits_K.double().softmax(-1)
    q = [(1 - epsilon) * (c == y) + epsilon / len(p_K) for c in range(len(p_K))]
    entropy = -sum((q_c * p_c.log() for q_c, p_c in zip(q, p_K, strict=True)), start=torch.zeros((), dtype=torch.float64))
    return weight * factor * (1 - p_K[y]) ** gamma * entropy


def in_loops(config: Config, parts: Tables, model: MultitaskModel, rows: np.ndarray) -> dict[str, Tensor]:
    """Each task's loss of the step, row by row."""
    losses = {}
    for task in config.labels:
        statistics, labels = parts.statistics[task], parts.train.labels[task]
        least, most = min(statistics.counts), max(statistics.counts)
        epsilons = [config.loss.label_smoothing[task] * (n - least) / (most - least) for n in statistics.counts]
        gammas, factors = GAMMAS[task]
        above, below = torch.zeros((), dtype=torch.float64), 0.0
        for number, micro in enumerate(micro_batches(rows, config.train.micro_batch_size)):
            pooled = model.encode(*to_tensors(parts.train.collate(micro), CPU).values())
            lam, turn = (1.0, np.arange(len(micro)))
            if config.loss.mixup_alpha:
                lam, turn = mixup_draw(config.train.seed, STEP, number, len(micro), config.loss.mixup_alpha)
            for i in range(len(micro)):
                logits = model.heads[task](lam * pooled[i : i + 1] + (1 - lam) * pooled[turn[i] : turn[i] + 1])[0]
                for share, y in ((lam, int(labels[micro[i]])), (1 - lam, int(labels[micro[turn[i]]]))):
                    if y >= 0:
                        weight = statistics.class_weights[y]
                        above = above + share * row_loss(logits, y, weight, gammas[y], factors[y], epsilons[y])
                        below += share * weight
        losses[task] = config.loss.task_weights[task] * above / below
    return losses


@pytest.mark.parametrize("rows_of_batch", [15, 13])
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_a_step_is_what_the_strategy_defines(mixup: float, rows_of_batch: int) -> None:
    chosen = config(mixup)
    parts, model = tables(chosen, 80), without_dropout(chosen)
    rows = rows_with_gaps(parts.train, chosen, rows_of_batch)
    shares = adapted(chosen, parts, model).gradient(rows, STEP, ALPHA).parts
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    expected = in_loops(chosen, parts, model, rows)
    for task, loss in expected.items():
        assert shares[f"loss_{task}"].item() == pytest.approx(loss.item(), rel=1e-4)
        assert abs(shares[f"consistency_{task}"].item()) < 1e-9  # both passes of a row are the same: pass meets pass, row meets row
    sum(expected.values(), start=torch.zeros((), dtype=torch.float64)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and name in found
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6 + 1e-4 * float(parameter.grad.abs().max()), msg=name)
