"""Simulated studies whose true effects are known: rows of shared difficulty, arms of known accuracy, seeds that vary.

Row i is predicted right by arm a and seed s where the latent sqrt(1 - v - e) u_i + sqrt(v) v_ia + sqrt(e) e_ias lies below the
quantile of the arm's accuracy for the row's class: u makes rows hard for every arm and seed, v is what an arm makes of a row
whatever the seed, e is the seed's luck with a row. The accuracy itself varies by arm and seed. A wrong prediction goes to a class that
the row prefers, the same for all arms. Over rows the confusion matrix is known exactly, so the true score of an arm is too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from polarity.evaluate.metrics import macro_f1
from polarity.study import Arm
from polarity.tune.designs import Screen
from polarity.tune.screen_effects import ScreenEffects, fit_screen
from polarity.tune.statistics import SeedRows, StudyEffects, compare

Floats = npt.NDArray[np.float64]

LABELS = {"sentiment": ["negative", "neutral", "positive"], "polarization": ["non_polarized", "objective", "partisan"]}
SHARES = {"sentiment": (0.50, 0.18, 0.32), "polarization": (0.30, 0.08, 0.62)}
ACCURACY = {"sentiment": (0.78, 0.52, 0.70), "polarization": (0.66, 0.50, 0.80)}
PREFERS = 0.7
"""Share of the rows of a class whose wrong predictions go to the next class, and not to the one after it."""


@dataclass(frozen=True)
class World:
    """What all studies of a test have in common: `effects` adds to every class's accuracy, by arm."""

    effects: Mapping[str, float]
    rows: int = 1000
    arm_share: float = 0.06
    seed_share: float = 0.05
    accuracy_sd: float = 0.0155
    noisier: Mapping[str, float] = field(default_factory=dict)
    """Factor on an arm's spread over seeds."""

    def arms(self) -> list[Arm]:
        return [Arm("baseline"), *(Arm(name, reference="baseline") for name in self.effects)]

    def truth(self, draws: int = 20000) -> dict[str, float]:
        """True difference in overall macro-F1 of each arm, over seeds and rows."""
        rng = np.random.default_rng(99)
        noise = {task: rng.normal(0, self.accuracy_sd, (draws, 3)) for task in LABELS}
        return {arm: self._score(effect, arm, noise) - self._score(0.0, "baseline", noise) for arm, effect in self.effects.items()}

    def _score(self, effect: float, arm: str, noise: Mapping[str, Floats]) -> float:
        scores = []
        for task in LABELS:
            accuracy = np.array(ACCURACY[task]) + effect + noise[task] * self.noisier.get(arm, 1.0)
            matrix = np.zeros((len(accuracy), 3, 3))
            for c, share in enumerate(SHARES[task]):
                matrix[:, c, c] = share * accuracy[:, c]
                matrix[:, c, (c + 1) % 3] = share * (1 - accuracy[:, c]) * PREFERS
                matrix[:, c, (c + 2) % 3] = share * (1 - accuracy[:, c]) * (1 - PREFERS)
            scores.append(macro_f1(matrix).mean())
        return float(np.mean(scores))

    def seeds(self, count: int, rng: np.random.Generator) -> list[SeedRows]:
        """One study's predictions: `count` seeds of the baseline and all arms, on one sample of rows."""
        names = ["baseline", *self.effects]
        gains = np.array([0.0, *self.effects.values()])
        spread = np.array([self.noisier.get(name, 1.0) for name in names]) * self.accuracy_sd
        codes: list[dict[str, dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]]] = [
            {name: {} for name in names} for _ in range(count)
        ]
        for task in LABELS:
            label = rng.choice(3, self.rows, p=SHARES[task])
            wrong = (label + np.where(rng.random(self.rows) < PREFERS, 1, 2)) % 3
            accuracy = np.array(ACCURACY[task]) + gains[:, None] + rng.normal(size=(count, len(names), 3)) * spread[:, None]
            fixed = np.sqrt(1 - self.arm_share - self.seed_share) * rng.normal(size=self.rows)
            fixed = fixed + np.sqrt(self.arm_share) * rng.normal(size=(len(names), self.rows))
            latent = fixed + np.sqrt(self.seed_share) * rng.normal(size=(count, len(names), self.rows))
            right = latent < ndtri(accuracy)[:, :, label]
            for s in range(count):
                for a, name in enumerate(names):
                    codes[s][name][task] = (label, np.where(right[s, a], label, wrong))
        return [SeedRows(s, codes[s], None) for s in range(count)]

    def study(self, count: int, rng: np.random.Generator) -> StudyEffects:
        """One simulated study, judged as a real one."""
        return compare(self.seeds(count, rng), self.rows, self.arms(), LABELS, {})


@dataclass(frozen=True)
class ScreenWorld:
    """Simulated screens: `effects` by factor and `interactions` by pair add to every class's accuracy where they are on.

    Half of what a pair of factors adds stands in each factor's main effect, for a main effect is the mean over the others. What a run
    makes of a row is partly its factors' own, the same in every run that has them on (`factor_share` of it), and partly the run's.
    """

    screen: Screen
    effects: Mapping[str, float]
    interactions: Mapping[tuple[str, str], float] = field(default_factory=dict)
    rows: int = 1495
    arm_share: float = 0.06
    seed_share: float = 0.05
    factor_share: float = 0.36
    accuracy_sd: float = 0.0295

    def gains(self) -> Floats:
        """By run."""
        on = {name: self.screen.signs_RF[:, j] > 0 for j, name in enumerate(self.screen.names)}
        total = np.zeros(len(self.screen.runs))
        for name, effect in self.effects.items():
            total += effect * on[name]
        for (a, b), effect in self.interactions.items():
            total += effect * (on[a] & on[b])
        return total

    def truth(self, draws: int = 4000) -> dict[str, float]:
        """True effect of each factor on overall macro-F1: the mean of the runs with it on less that of the others."""
        one = World({f"{index}": float(gain) for index, gain in enumerate(self.gains())}, accuracy_sd=self.accuracy_sd)
        score_R = np.array(list(one.truth(draws).values()))
        signs_RF = self.screen.signs_RF
        return {
            name: float(score_R[signs_RF[:, j] > 0].mean() - score_R[signs_RF[:, j] < 0].mean()) for j, name in enumerate(self.screen.names)
        }

    def seeds(self, count: int, rng: np.random.Generator) -> list[SeedRows]:
        """One study's predictions of all runs over `count` seeds, on one sample of rows."""
        signs_RF, runs = self.screen.signs_RF, list(self.screen.runs)
        size = (count, len(runs))
        codes: list[dict[str, dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]]] = [
            {r: {} for r in runs} for _ in range(count)
        ]
        for task in LABELS:
            label = rng.choice(3, self.rows, p=SHARES[task])
            wrong = (label + np.where(rng.random(self.rows) < PREFERS, 1, 2)) % 3
            accuracy = np.array(ACCURACY[task]) + self.gains()[:, None] + rng.normal(size=(*size, 3)) * self.accuracy_sd
            of_factors = signs_RF @ rng.normal(size=(signs_RF.shape[1], self.rows)) / np.sqrt(signs_RF.shape[1])
            of_runs = np.sqrt(self.factor_share) * of_factors + np.sqrt(1 - self.factor_share) * rng.normal(size=(len(runs), self.rows))
            fixed = np.sqrt(1 - self.arm_share - self.seed_share) * rng.normal(size=self.rows) + np.sqrt(self.arm_share) * of_runs
            latent = fixed + np.sqrt(self.seed_share) * rng.normal(size=(*size, self.rows))
            right = latent < ndtri(np.clip(accuracy, 0.01, 0.99))[:, :, label]
            for s in range(count):
                for r, name in enumerate(runs):
                    codes[s][name][task] = (label, np.where(right[s, r], label, wrong))
        return [SeedRows(s, codes[s], None) for s in range(count)]

    def study(self, count: int, rng: np.random.Generator) -> ScreenEffects:
        """One simulated screen, judged as a real one."""
        return fit_screen(self.seeds(count, rng), self.rows, self.screen, LABELS, {})
