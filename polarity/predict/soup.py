"""Soups: one model whose weights are the mean of several models' (Wortsman et al. 2022, "Model soups")."""

from collections.abc import Callable, Sequence

from torch import Tensor

Weights = dict[str, Tensor]


def average(members: Sequence[Callable[[], Weights]]) -> Weights:
    """The mean of the members' floating-point tensors, summed in float64; other tensors are the first member's.

    Each member is a function that reads its weights, so that two sets are in memory at most.
    """
    total: dict[str, Tensor] = {}
    kinds: Weights = {}
    for number, read in enumerate(members):
        for name, tensor in read().items():
            if number == 0:
                kinds[name] = tensor
                total[name] = tensor.double() if tensor.is_floating_point() else tensor
            elif tensor.is_floating_point():
                total[name] += tensor.double()
    return {name: (sum_ / len(members)).to(kinds[name].dtype) if kinds[name].is_floating_point() else sum_ for name, sum_ in total.items()}


def greedy(scores: Sequence[float], score_of: Callable[[list[int]], float]) -> tuple[list[int], list[dict[str, float | int | bool]]]:
    """The members (positions in `scores`) of the greedy soup, and what was tried in order.

    From the best single score down, a member is added where `score_of` the members so far with it is not below their score without it.
    """
    order = sorted(range(len(scores)), key=lambda position: (-scores[position], position))
    kept, best = [order[0]], scores[order[0]]
    tried: list[dict[str, float | int | bool]] = [{"member": order[0], "score": best, "kept": True}]
    for position in order[1:]:
        found = score_of([*kept, position])
        better = found >= best
        tried.append({"member": position, "score": found, "kept": better})
        if better:
            kept, best = [*kept, position], found
    return kept, tried


def completed(part: Weights, whole: Weights, table: str, used: Tensor) -> Weights:
    """A checkpoint's weights as a whole model's: what training left out of it comes from the run's own model, `whole`.

    That is frozen layers, and in the word table `table` the rows that are not in `used` (see `polarity.model.vocabulary`), of which
    `whole` has what weight decay left at the run's best epoch.
    """
    found = {**whole, **part}
    rows = part.get(table)
    if rows is not None and rows.shape[0] == len(used) < whole[table].shape[0]:
        found[table] = whole[table].clone()
        found[table][used] = rows
    return found
