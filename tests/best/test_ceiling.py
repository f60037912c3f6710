"""The learning curve's extension on worlds whose curve is known, and what it says of labels that are wrong by a known share."""

import numpy as np
import pyarrow as pa
import pytest

from polarity.baselines.floors import fit_linear
from polarity.best.ceiling import FRACTIONS, curve_scores, extend, find_ceiling, label_doubts
from polarity.best.members import out_of_fold, refits
from polarity.best.record import ceiling_lines
from polarity.best.rows import make_folds
from polarity.best.stacking import Crossed, Judge
from polarity.config import SplitConfig
from polarity.report.run_rows import label_errors
from tests.tiny import tiny_comments

LABELS = {"sentiment": ["negative", "neutral", "positive"], "polarization": ["non_polarized", "objective", "partisan"]}


@pytest.mark.parametrize(("limit", "a", "b"), [(0.8, 1.5, 0.3), (0.7, 2.0, 0.5), (0.9, 1.0, 0.15)])
def test_a_power_law_is_extended_to_its_own_values(limit: float, a: float, b: float) -> None:
    sizes = [500, 1000, 2000, 4000, 8000]
    law = lambda n: limit - a * np.asarray(n, float) ** -b  # noqa: E731
    scores = np.tile(law(sizes), (3, 1))
    np.testing.assert_allclose(extend(sizes, scores, [16000, 32000])[0], law([16000, 32000]), atol=2e-3)


def test_noise_in_the_curve_is_in_the_interval() -> None:
    """The law's value lies in the 95 % interval in about 95 % of worlds whose five scores have independent noise."""
    random, sizes, truth = np.random.default_rng(0), [500, 1000, 2000, 4000, 8000], 0.75 - 1.5 * 16000.0**-0.3
    inside = 0
    for _ in range(200):
        seen = 0.75 - 1.5 * np.array(sizes, float) ** -0.3 + random.normal(0, 0.004, 5)
        resampled = np.concatenate([seen[None], seen + random.normal(0, 0.004, (200, 5))])
        reach = find_ceiling(sizes, resampled, float(seen[-1]), 10000, 0.75).reach[0]
        inside += reach.ci95[0] <= truth <= reach.ci95[1]
    assert 180 <= inside <= 200


def test_a_flat_curve_never_comes_to_the_target_and_a_steep_one_does() -> None:
    sizes = [500, 1000, 2000, 4000, 8000]
    flat = find_ceiling(sizes, np.full((11, 5), 0.6), 0.62, 10000, 0.75)
    assert flat.rows_for_target is None and [round(reach.macro_f1, 6) for reach in flat.reach] == [0.62, 0.62]
    steep = 0.95 - 4.0 * np.array(sizes, float) ** -0.35
    found = find_ceiling(sizes, np.tile(steep, (11, 1)), float(steep[-1]), 10000, 0.8)
    wanted = ((0.95 - 0.8) / 4.0) ** (-1 / 0.35) * 10000 / 8000
    assert found.rows_for_target is not None and abs(found.rows_for_target / wanted - 1) < 0.05
    assert "expected at about" in list(ceiling_lines(found))[2] and "not expected" in list(ceiling_lines(flat))[2]
    reached = find_ceiling(sizes, np.tile(steep, (11, 1)), float(steep[-1]), 10000, 0.5)
    assert list(ceiling_lines(reached))[2] == "the plan's target of 50 is reached with these rows"
    assert not any("target" in line for line in ceiling_lines(find_ceiling(sizes, np.full((11, 5), 0.6), 0.62, 10000, None)))


@pytest.mark.parametrize("by_title", [False, True])
def test_the_curve_of_real_fits_rises_and_its_last_point_is_that_of_all_rows(by_title: bool) -> None:
    table = tiny_comments(400, titles=20)
    folds = make_folds(table, SplitConfig(kind="group" if by_title else "joint"), list(LABELS), 3)
    judge = Judge.of(table, LABELS, folds.number, by_title=by_title, resamples=50)
    whole = out_of_fold(table, folds, LABELS, lambda train: fit_linear(train, LABELS, say=lambda _: None).probabilities)
    sizes, scores = curve_scores(judge, folds, refits(table, LABELS, None), [whole], resamples=50)
    assert scores.shape == (51, len(FRACTIONS) + 1) and sizes == sorted(sizes)
    assert scores[0, -1] > scores[0, 0] and scores[0, -1] == pytest.approx(_overall(whole, judge))


def _overall(members: dict[str, np.ndarray], judge: Judge) -> float:
    from sklearn.metrics import f1_score

    known = {task: codes >= 0 for task, codes in judge.codes.items()}
    pairs = [(judge.codes[task][known[task]], members[task][known[task]].argmax(1)) for task in LABELS]
    return float(np.mean([f1_score(*pair, average="macro", labels=range(3)) for pair in pairs]))


def test_labels_that_are_wrong_are_counted_and_bound_the_score() -> None:
    """One label in ten is made wrong; two models that know the right one agree, and contradict a tenth."""
    random = np.random.default_rng(0)
    labels = {"sentiment": LABELS["sentiment"]}
    truth = random.integers(3, size=3000)
    given = np.where(random.random(3000) < 0.1, (truth + random.integers(1, 3, size=3000)) % 3, truth)
    chances = {"sentiment": 0.05 + 0.85 * np.eye(3)[truth]}
    table = pa.table({"row_id": [f"r{i}" for i in range(3000)], "title": [""] * 3000, "sentiment": np.array(labels["sentiment"])[given]})
    judge = Judge(table, labels, np.zeros(3000, np.int64), False, 10, {"sentiment": given})
    suspects = {"sentiment": label_errors(given, chances["sentiment"]).rows}
    crossed = Crossed({"sentiment": chances["sentiment"].astype(np.float32)}, {"sentiment": truth})
    (doubt,) = label_doubts({"linear": chances, "encoder": chances}, crossed, suspects, judge)
    wrong = float((given != truth).mean())
    assert doubt.suspect == pytest.approx(wrong) and doubt.label_differs == pytest.approx(wrong) and doubt.views_agree == 1.0
    assert doubt.macro_f1 == pytest.approx(1 - wrong, abs=0.01) and doubt.macro_f1_if_wrong == pytest.approx(1.0)
