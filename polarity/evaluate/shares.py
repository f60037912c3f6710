"""Shares of the classes among unlabelled rows: counted, and corrected for the classifier's errors, with 95 % intervals.

What is counted is not what is there: a classifier moves rows from some classes to others, and one that was trained on resampled,
weighted rows does so on purpose. Two corrections, both of which assume that comments of one class look alike here and among the
validation rows, so that only the mix of classes differs (prior shift):

    adjusted   the shares under which the confusion matrix of the validation rows, P(predicted | true), gives the counted classes
               (Gart and Buck 1966; Forman 2008), by maximum likelihood within the simplex
    em         the shares under which the probabilities themselves are likeliest (Saerens, Latinne and Decaestecker 2002). The prior
               that training taught is not taken from the ledger but unlearned: the probabilities are calibrated on the validation
               rows first (a temperature and a bias a class; Alexandari, Kundaje and Shrikumar 2020), whose own shares are then the prior

Intervals are percentiles of a bootstrap of the validation rows (within each class) and of the predicted rows, together.

Rows come as a `Tally`: predictions of any number of rows condensed to a few thousand cells, in which label, predicted class and the log
ratios of the probabilities (to the largest one, on a grid) agree. Tallies of parts can be added.

Shape suffixes: N rows, C cells, K classes, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from polarity.arrays import Codes, Floats
from polarity.evaluate.intervals import interval, joint_cells
from polarity.evaluate.predictions import MISSING

STEPS = {2: 0.1, 3: 0.25, 4: 0.5}
"""Width of a cell in log ratio, by number of classes; 1 for more than four, where the grid has more dimensions."""
LOWEST = -12.0
"""Log ratios below this (a probability of 6e-6) count as this."""


@dataclass(frozen=True)
class Tally:
    """Cells of one task's predictions: `label` (-1: none) and `predicted` (C,), `count` (C,), mean `log_ratio` (C, K)."""

    label: Codes
    predicted: Codes
    count: Floats
    log_ratio: Floats

    @classmethod
    def empty(cls, classes: int) -> "Tally":
        """No rows."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none, none, np.zeros(0), np.zeros((0, classes)))

    @classmethod
    def of(cls, probabilities: NDArray[np.floating], predicted: NDArray[np.integer], label: NDArray[np.integer] | None = None) -> "Tally":
        """The tally of N rows: `probabilities` (N, K), `predicted` and `label` (N,) class indices."""
        logs_NK = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), np.exp(2 * LOWEST)))
        ratio_NK = np.maximum(logs_NK - logs_NK.max(axis=1, keepdims=True), LOWEST)
        labels = np.full(len(ratio_NK), MISSING) if label is None else np.asarray(label)
        return cls(labels.astype(np.int64), np.asarray(predicted).astype(np.int64), np.ones(len(ratio_NK)), ratio_NK)._condensed()

    def __add__(self, other: "Tally") -> "Tally":
        both = zip(self._arrays(), other._arrays(), strict=True)
        return Tally(*(np.concatenate(pair) for pair in both))._condensed()

    @property
    def rows(self) -> int:
        """Rows counted."""
        return int(self.count.sum())

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return int(self.log_ratio.shape[1])

    def predicted_counts(self) -> Floats:
        """Rows predicted as each class (K,)."""
        return np.bincount(self.predicted, weights=self.count, minlength=self.classes).astype(np.float64)

    def labelled(self) -> "Tally":
        """The cells whose rows have a label."""
        known = self.label != MISSING
        return Tally(*(array[known] for array in self._arrays()))

    def _arrays(self) -> tuple[Codes, Codes, Floats, Floats]:
        return self.label, self.predicted, self.count, self.log_ratio

    def _condensed(self) -> "Tally":
        if not len(self.count):
            return self
        step = STEPS.get(self.classes, 1.0)
        grid = [np.round(-column / step).astype(np.int64) for column in self.log_ratio.T]
        cell, first = joint_cells([self.label, self.predicted, *grid])
        count = np.bincount(cell, weights=self.count, minlength=len(first)).astype(np.float64)
        total_CK = np.column_stack([np.bincount(cell, weights=self.count * column, minlength=len(first)) for column in self.log_ratio.T])
        return Tally(self.label[first], self.predicted[first], count, total_CK / count[:, None])


RESAMPLES = 500
FEW_ROWS = 30
"""Validation rows of a class below which its corrected share is called rough."""
LOW_RECALL = 0.2
"""Share of a class's validation rows that must be found for its interval to be given without a warning."""
WIDE = 0.5
"""Width of an interval above which the shares are called unknown: half of all that is possible."""
NEWTON_STEPS = 2
"""Newton steps of a resample's calibration, from the whole's: each squares the distance, which begins at about a standard error."""
EM_STEPS, EM_TOLERANCE = 500, 1e-6
_CHUNK_NUMBERS = 3_000_000


class Share(TypedDict):
    """A class's share of the rows, a fraction; null where the interval says next to nothing."""

    share: float | None
    ci95: list[float]


class Shares(TypedDict):
    """Shares of one task: `methods` {raw, adjusted, em: {class: {share, ci95}}}, which of them is the `headline`, and why.

    Where the intervals say next to nothing, `headline` is "unknown" and the corrected methods have null as `share`.
    """

    rows: int
    validation_rows: int
    headline: str
    reason: str
    methods: dict[str, dict[str, Share]]
    notes: list[str]


class _Draws(NamedTuple):
    """Estimates (K,) and their resamples (R, K)."""

    point: Floats
    spread: Floats


def class_shares(
    classes: Sequence[str], predicted: Tally, validation: Tally | None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Shares:
    """Shares of the classes among the rows of `predicted`, corrected by the labelled rows of `validation` where there are any.

    The intervals are for the population that the rows were drawn from; for the rows themselves they are somewhat wide. A class without a
    validation row cannot be corrected for: then only the counts are given, with a note. Raises ValueError where there are no rows.
    """
    if not predicted.rows:
        raise ValueError("there are no predicted rows to take shares of")
    rng = np.random.default_rng(seed)
    known = Tally.empty(len(classes)) if validation is None else validation.labelled()
    counts_RC = rng.multinomial(predicted.rows, predicted.count / predicted.rows, size=resamples).astype(np.float64)
    to_class_CK = np.eye(len(classes))[predicted.predicted]
    raw = _Draws(predicted.predicted_counts() / predicted.rows, counts_RC @ to_class_CK / predicted.rows)
    reason = _uncorrectable(classes, known)
    if reason:
        note = f"{reason}: the counts are not corrected for the classifier's errors"
        counted = {"raw": _described(classes, raw)}
        return {
            "rows": predicted.rows,
            "validation_rows": known.rows,
            "headline": "raw",
            "reason": reason,
            "methods": counted,
            "notes": [note],
        }
    validation_RC = _resampled_within_classes(known, resamples, rng)
    # Where the data do not say what the shares are, EM stays where it starts: random starts make that a wide interval.
    start_RK = rng.dirichlet(np.full(len(classes), 2.0), size=resamples)
    adjusted = _adjusted(raw, known, validation_RC, start_RK)
    drawn = {"raw": raw, "adjusted": adjusted, "em": _em(predicted, counts_RC, known, validation_RC, start_RK)}
    headline, reason = _choice(drawn["adjusted"], drawn["em"])
    methods = {name: _described(classes, draws) for name, draws in drawn.items()}
    notes = _notes(classes, known, raw, headline)
    wide = [name for name in classes if np.ptp(methods[headline][name]["ci95"]) > WIDE]
    if wide:
        named = ", ".join(wide)
        headline, reason = "unknown", f"the classifier says next to nothing of the share of {named}: it tells the classes apart too poorly"
        notes.append("label a random sample of these comments by hand and count it: that needs no classifier")
        for name in ("adjusted", "em"):
            methods[name] = {label: {**entry, "share": None} for label, entry in methods[name].items()}
    return {
        "rows": predicted.rows,
        "validation_rows": known.rows,
        "headline": headline,
        "reason": reason,
        "methods": methods,
        "notes": notes,
    }


def confusion(validation: Tally, counts_RC: Floats) -> Floats:
    """P(predicted k | true c) as (R, K true, K predicted), smoothed by a hundredth of a row a class."""
    classes = validation.classes
    to_pair = np.eye(classes * classes)[validation.label * classes + validation.predicted]
    pairs_RKK = (counts_RC @ to_pair).reshape(-1, classes, classes) + 1e-2 / classes
    shares: Floats = pairs_RKK / pairs_RKK.sum(axis=2, keepdims=True)
    return shares


def mixture_weights(likelihood_RCK: Floats, counts_RC: Floats, start_RK: Floats) -> Floats:
    """The shares (R, K) under which cells with likelihoods P(cell | class) have their counts, by expectation maximisation.

    Each step multiplies a class's share by the mean, over the rows, of its likelihood relative to the mixture's; the result is the maximum
    of a concave function over the simplex. Shares that begin at 0 would stay there.
    """
    weight_RC = counts_RC / counts_RC.sum(axis=1, keepdims=True)
    shares_RK = start_RK
    for _ in range(EM_STEPS):
        mixture_RC = np.matmul(likelihood_RCK, shares_RK[:, :, None])[:, :, 0]
        ratio_R1C = (weight_RC / mixture_RC)[:, None, :]
        new_RK = shares_RK * np.matmul(ratio_R1C, likelihood_RCK)[:, 0, :]
        new_RK /= new_RK.sum(axis=1, keepdims=True)
        moved = np.abs(new_RK - shares_RK).max()
        shares_RK = new_RK
        if moved < EM_TOLERANCE:
            break
    return shares_RK


def calibration(validation: Tally) -> Floats:
    """Temperature and biases that make the validation rows' labels likeliest: (1/T, b_1, ..., b_{K-1}); the first class has bias 0."""
    counts_1C = validation.count[None]

    def loss(theta: Floats) -> tuple[float, Floats]:
        value, gradient, _ = _likelihood(theta[None], validation, counts_1C)
        return float(value[0]), gradient[0]

    from scipy.optimize import minimize  # a third of a second, which a single text need not wait

    found = minimize(
        loss, _identity(validation.classes), jac=True, hess=lambda theta: _likelihood(theta[None], validation, counts_1C)[2][0],
        method="trust-exact", options={"gtol": 1e-6 * validation.rows},
    )  # fmt: skip
    theta: Floats = found.x
    return theta


def calibrated(theta_RP: Floats, log_ratio_CK: Floats) -> Floats:
    """Calibrated probabilities (R, C, K)."""
    logits = theta_RP[:, :1, None] * log_ratio_CK[None]
    logits[:, :, 1:] += theta_RP[:, None, 1:]
    logits -= logits.max(axis=2, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=2, keepdims=True)
    return logits


def _identity(classes: int) -> Floats:
    theta: Floats = np.eye(classes)[0]
    return theta


def _likelihood(theta_RP: Floats, validation: Tally, counts_RC: Floats) -> tuple[Floats, Floats, Floats]:
    """Negative log-likelihood (R,), gradient (R, P) and Hessian (R, P, P); one row's worth of pull to the identity keeps it finite."""
    x_CK, classes = validation.log_ratio, validation.classes
    q_RCK = calibrated(theta_RP, x_CK)
    cells = np.arange(len(x_CK))
    away_RP = theta_RP - _identity(classes)
    value = -(counts_RC * np.log(np.maximum(q_RCK[:, cells, validation.label], 1e-300))).sum(axis=1) + 0.5 * (away_RP**2).sum(axis=1)
    # d logit_k / d theta is (x_k, e_k): the gradient is the expected minus the observed, the Hessian its covariance under q
    error_RCK = q_RCK - np.eye(classes)[validation.label]
    mean_x_RC = (q_RCK * x_CK).sum(axis=2)
    slope_R = (counts_RC * (error_RCK * x_CK).sum(axis=2)).sum(axis=1)
    gradient = np.column_stack([slope_R, np.einsum("rc,rck->rk", counts_RC, error_RCK)[:, 1:]]) + away_RP
    curved_R = (counts_RC * ((q_RCK * x_CK**2).sum(axis=2) - mean_x_RC**2)).sum(axis=1)
    mixed_RK = np.einsum("rc,rck->rk", counts_RC, q_RCK * (x_CK[None] - mean_x_RC[:, :, None]))
    weighted_RCK = counts_RC[:, :, None] * q_RCK
    square_RKK = -np.matmul(weighted_RCK.transpose(0, 2, 1), q_RCK)
    square_RKK[:, range(classes), range(classes)] += weighted_RCK.sum(axis=1)
    hessian = np.empty((len(theta_RP), classes, classes))
    hessian[:, 0, 0], hessian[:, 0, 1:], hessian[:, 1:, 0] = curved_R, mixed_RK[:, 1:], mixed_RK[:, 1:]
    hessian[:, 1:, 1:] = square_RKK[:, 1:, 1:]
    return value, gradient, hessian + np.eye(classes)


def _resampled_within_classes(validation: Tally, resamples: int, rng: np.random.Generator) -> Floats:
    counts_RC = np.zeros((resamples, len(validation.count)))
    for label in range(validation.classes):
        cells = np.flatnonzero(validation.label == label)
        rows = validation.count[cells]
        counts_RC[:, cells] = rng.multinomial(int(rows.sum()), rows / rows.sum(), size=resamples)
    return counts_RC


def _adjusted(raw: _Draws, validation: Tally, validation_RC: Floats, start_RK: Floats) -> _Draws:
    def solved(matrix_RKK: Floats, shares_RK: Floats, start: Floats) -> Floats:
        return mixture_weights(matrix_RKK.transpose(0, 2, 1), shares_RK, start)

    even_1K = np.full((1, validation.classes), 1 / validation.classes)
    point = solved(confusion(validation, validation.count[None]), raw.point[None], even_1K)[0]
    return _Draws(point, solved(confusion(validation, validation_RC), raw.spread, start_RK))


def _em(predicted: Tally, counts_RC: Floats, validation: Tally, validation_RC: Floats, start_RK: Floats) -> _Draws:
    theta = calibration(validation)
    likelihood_1CK = _likelihoods(theta[None], predicted, validation, validation.count[None])
    point = mixture_weights(likelihood_1CK, predicted.count[None], np.full((1, validation.classes), 1 / validation.classes))[0]
    spread = []
    step = max(1, _CHUNK_NUMBERS // (validation.classes * max(len(predicted.count), len(validation.count))))
    for first in range(0, len(counts_RC), step):
        chosen = slice(first, first + step)
        theta_RP = np.repeat(theta[None], len(counts_RC[chosen]), axis=0)
        for _ in range(NEWTON_STEPS):
            _, gradient, hessian = _likelihood(theta_RP, validation, validation_RC[chosen])
            theta_RP = theta_RP - np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        likelihood_RCK = _likelihoods(theta_RP, predicted, validation, validation_RC[chosen])
        spread.append(mixture_weights(likelihood_RCK, counts_RC[chosen], start_RK[chosen]))
    return _Draws(point, np.concatenate(spread))


def _likelihoods(theta_RP: Floats, predicted: Tally, validation: Tally, validation_RC: Floats) -> Floats:
    """P(cell | class) up to a factor (R, C, K): calibrated probabilities over their mean among the validation rows, which is the prior.

    At the optimum that mean is the share of the labels; where the fit is held back, it still makes an uninformative cell count for nothing.
    """
    prior_RK = np.einsum("rc,rck->rk", validation_RC, calibrated(theta_RP, validation.log_ratio)) / validation.rows
    likelihood: Floats = calibrated(theta_RP, predicted.log_ratio) / prior_RK[:, None, :]
    return likelihood


def _uncorrectable(classes: Sequence[str], validation: Tally) -> str:
    if not validation.rows:
        return "there are no labelled held-out rows"
    rows = np.bincount(validation.label, weights=validation.count, minlength=len(classes))
    lacking = [name for name, count in zip(classes, rows, strict=True) if not count]
    return f"no held-out row is {', '.join(lacking)}" if lacking else ""


def _choice(adjusted: _Draws, em: _Draws) -> tuple[str, str]:
    """The EM, which uses all of the probabilities, unless it contradicts the adjusted counts, which assume less."""
    tail = 2.5 / len(em.point)  # Bonferroni: any of the classes may contradict
    low, high = np.percentile(em.spread - adjusted.spread, [tail, 100 - tail], axis=0)
    if ((low > 0) | (high < 0)).any():
        return "adjusted", "the two corrections differ beyond their noise, and adjusted counts rest on the error counts alone"
    return "em", "it uses the whole probabilities, and agrees with the adjusted counts within their noise"


def _notes(classes: Sequence[str], validation: Tally, raw: _Draws, headline: str) -> list[str]:
    notes = ["holds where comments of a class look alike here and in the held-out rows; another topic, place or time may break it"]
    if headline == "adjusted":
        notes.append("the two corrections differ: comments of a class seem to look different here, so read all shares with care")
    rows = np.bincount(validation.label, weights=validation.count, minlength=len(classes))
    few = [f"{name} ({int(count)})" for name, count in zip(classes, rows, strict=True) if count < FEW_ROWS]
    if few:
        notes.append(f"few held-out rows of {', '.join(few)}: its errors, and so the interval, are roughly known")
    matrix = confusion(validation, validation.count[None])[0]
    missed = [name for name, recall in zip(classes, np.diag(matrix), strict=True) if recall < LOW_RECALL]
    if missed:
        notes.append(f"the classifier finds hardly any {', '.join(missed)}: the interval of that share may be too narrow")
    outside = np.linalg.lstsq(matrix.T, raw.point, rcond=None)[0] < -0.01
    if outside.any():
        named = ", ".join(name for name, out in zip(classes, outside, strict=True) if out)
        notes.append(f"the counts have fewer {named} than errors alone would give: its adjusted share was held at 0")
    return notes


def _described(classes: Sequence[str], draws: _Draws) -> dict[str, Share]:
    return {name: {"share": float(draws.point[k]), "ci95": interval(draws.spread[:, k])} for k, name in enumerate(classes)}


NAMES = {"raw": "counted", "em": "corrected, EM", "adjusted": "corrected, counts"}
CELL = 19
"""Columns of a share with its interval: three of them and a class's name fit 80."""


def render_shares(shares: Mapping[str, Shares]) -> str:
    """For each task a table of classes, the headline's column first, in percent with 95 % intervals, then why and what to mind."""
    lines = ["", "Shares of the classes in percent, with 95 % intervals; EM and counts are two ways to correct the classifier's errors:"]
    lines += [line for task, found in shares.items() for line in _task(task, found)]
    if len({found["headline"] for found in shares.values()} - {"unknown"}) > 1:
        lines.append("The tasks are corrected in different ways; each says why above.")
    return "\n".join(lines)


def _task(task: str, found: Shares) -> list[str]:
    methods = sorted(found["methods"], key=lambda name: (name != found["headline"], ("em", "adjusted", "raw").index(name)))
    width = max(len(task), *(len(name) for name in found["methods"]["raw"]))
    lines = ["", f"{task:<{width}}  " + "  ".join(f"{NAMES[name]:<{CELL}}" for name in methods).rstrip()]
    for label in found["methods"]["raw"]:
        cells = "  ".join(f"{_cell(found['methods'][name][label]):<{CELL}}" for name in methods)
        lines.append(f"{label:<{width}}  {cells}".rstrip())
    if found["headline"] == "unknown":
        lines.append(f"the shares of {found['rows']:,} comments are not known: {found['reason']}")
    elif found["headline"] != "raw":
        lines.append(f"shares of {found['rows']:,} comments, corrected by {found['validation_rows']:,} held-out rows;")
        lines.append(f"the first column is the one to report: {found['reason']}")
    return [*lines, *(f"- {note}" for note in found["notes"])]


def _cell(entry: Share) -> str:
    low, high = entry["ci95"]
    point = "    ?" if entry["share"] is None else f"{100 * entry['share']:5.1f}"
    return f"{point} [{100 * low:.1f}, {100 * high:.1f}]"
