"""The effects table against formulas worked by hand, scikit-learn, the bootstrap, and simulated noise."""

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from planted import LABELS, World
from scipy import stats
from sklearn.metrics import f1_score

from polarity.errors import ConfigError, DataError
from polarity.evaluate.intervals import scores_of, unit_of
from polarity.evaluate.predictions import build_predictions, task_codes
from polarity.study import EFFECTS_SCHEMA, Arm, Detectable, Stage, Status, TrialRecord
from polarity.tune.findings import equal_compute
from polarity.tune.statistics import study_effects
from polarity.tune.terminal import render_effects
from polarity.tune.variance import (
    MEASURED_SEED_SD,
    PairedRows,
    SeedSpread,
    _pooled,
    arm_spreads,
    by_unit,
    combine,
    detectable_effect,
    forecast_pairs,
    forecast_screen,
    holm,
    judge_rows,
    metric_names,
    seed_degrees,
    stated_row_sd,
    stated_seed_sd,
)

ARMS = [Arm("baseline"), Arm("good", (1,), {}, "baseline", (0.04, 0.06)), Arm("same", (2,), {}, "baseline", (0.03, 0.04))]
SKILL = {"baseline": 1.0, "good": 2.5, "same": 1.0}


def table_of(trials: dict[tuple[str, int], pa.Table], arms: list[Arm], labels: dict[str, list[str]]) -> pa.Table:
    return study_effects(trials, arms, labels).table


def predictions(arm: str, seed: int, rows: int = 300, *, missing: float = 0.0, first_row: int = 0, titles: int = 12) -> pa.Table:
    """A trial's effect rows: labels and titles by row alone, predictions by arm and seed."""
    fixed = np.random.default_rng([7, first_row])
    noise = np.random.default_rng([seed, *arm.encode()])
    columns = {
        "row_id": pa.array([f"r{first_row + i}" for i in range(rows)], pa.large_string()),
        "title": pa.array([f"title {i}" for i in fixed.integers(0, titles, rows)], pa.large_string()),
    }
    probabilities = {}
    for task in LABELS:
        true = fixed.choice(3, rows, p=[0.6, 0.28, 0.12])
        columns[task] = pa.array(true.astype(np.int8), pa.int8(), mask=fixed.random(rows) < missing)
        logits = noise.normal(size=(rows, 3)) + SKILL[arm] * np.eye(3)[true]
        probabilities[task] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return build_predictions("test", pa.table(columns), probabilities, LABELS)


def study(seeds: int = 3, **options: float) -> dict[tuple[str, int], pa.Table]:
    return {(arm.name, seed): predictions(arm.name, seed, **options) for arm in ARMS for seed in range(seeds)}  # type: ignore[arg-type]


def codes_of(table: pa.Table) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    return {task: task_codes(table, task, classes) for task, classes in LABELS.items()}


def row_of(table: pa.Table, arm: str, metric: str = "overall") -> dict[str, object]:
    return next(row for row in table.to_pylist() if (row["arm"], row["metric"]) == (arm, metric))


def test_scores_are_scikit_learns_and_influences_are_derivatives_by_row_weight() -> None:
    table = predictions("baseline", 0, 60, missing=0.2)
    codes = codes_of(table)
    judged = judge_rows(codes, [3, 3])

    def scores(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        f1 = []
        for label, predicted in codes.values():
            known = label >= 0
            f1.append(f1_score(label[known], predicted[known], labels=[0, 1, 2], average=None, sample_weight=weight[known]))
        macro = [values.mean() for values in f1]
        return np.concatenate([[np.mean(macro)], macro, *f1])

    ones, step = np.ones(60), 1e-5
    np.testing.assert_allclose(judged.scores_M, scores(ones), rtol=1e-12)
    for row in range(0, 60, 7):
        up, down = ones.copy(), ones.copy()
        up[row] += step
        down[row] -= step
        np.testing.assert_allclose(judged.influence_NM[row], (scores(up) - scores(down)) / (2 * step), atol=1e-8)
    assert metric_names(LABELS)[:4] == ["overall", "sentiment", "polarization", "sentiment/negative"]


def test_a_class_without_a_labelled_row_is_in_no_mean() -> None:
    """As scikit-learn's macro over the labels that occur; its own F1 is 0 and its predictions cost the other classes."""
    label, predicted = np.array([0, 0, 1, 1, -1]), np.array([0, 2, 1, 0, 2])
    judged = judge_rows({"a": (label, predicted)}, [3])
    assert judged.scores_M[1] == pytest.approx(f1_score(label[:4], predicted[:4], labels=[0, 1], average="macro"))
    np.testing.assert_allclose(judged.influence_NM[:, 1], judged.influence_NM[:, 2:4].mean(axis=1))


@pytest.mark.parametrize("by_title", [False, True])
def test_squared_influences_add_up_to_the_variance(by_title: bool) -> None:
    """Of the bootstrap of rows, and of the jackknife of titles."""
    table = predictions("baseline", 0, 1500, titles=60)
    unit = unit_of(table, by_title)
    point, spread = scores_of(table, LABELS, unit, resamples=4000, seed=1)
    summed = by_unit(judge_rows(codes_of(table), [3, 3]).influence_NM, unit.groups, unit.count)
    names = [(point.overall, spread.overall), *((point.macro[task], spread.macro[task]) for task in ("sentiment", "polarization"))]
    expected = [np.sqrt(59 / 60 * ((of - whole) ** 2).sum()) if by_title else of.std() for whole, of in names]
    np.testing.assert_allclose(np.sqrt((summed**2).sum(axis=0))[:3], expected, rtol=0.07)


def test_the_rows_part_is_the_product_of_different_seeds() -> None:
    rows = PairedRows.empty(30, 1)  # 27 of them move nothing
    for influence in ([0.3, -0.1, -0.2], [0.1, 0.1, -0.2], [0.2, 0.0, -0.2]):
        rows.add(np.array([*influence, *[0.0] * 27])[:, None])
    by_row = [(0.3 * 0.1 + 0.3 * 0.2 + 0.1 * 0.2) / 3, (-0.1 * 0.1) / 3, 0.2 * 0.2]
    variance, df = rows.variance()
    assert variance[0] == pytest.approx(sum(by_row))
    assert df[0] == pytest.approx(2 * sum(by_row) ** 2 / (sum(q * q for q in by_row) - sum(by_row) ** 2 / 30))
    few = PairedRows.empty(3, 1)
    few.add(np.array([[0.3], [-0.1], [-0.2]]))
    few.add(np.array([[0.3], [-0.1], [-0.2]]))
    assert few.variance()[1][0] <= 2  # three titles have two degrees at most


def test_the_luck_of_a_seed_with_rows_is_not_counted_twice() -> None:
    """Arms that differ from their reference by seed x row luck alone: the bootstrap would find s2 / S again, the products nothing."""
    world = World({"null": 0.0}, arm_share=0.0, accuracy_sd=0.0, seed_share=0.2)
    products, squares, of_seeds = [], [], []
    for number in range(60):
        seeds = world.seeds(3, np.random.default_rng(number))
        rows, differences = PairedRows.empty(world.rows, 9), {}
        for seed in seeds:
            arm, reference = (judge_rows(seed.codes[name], [3, 3]) for name in ("null", "baseline"))
            rows.add(arm.influence_NM - reference.influence_NM)
            differences[seed.seed] = arm.scores_M - reference.scores_M
        products.append((rows.total_GM[:, 0] ** 2 - rows.squares_GM[:, 0]).sum() / 6)
        squares.append((rows.total_GM[:, 0] ** 2).sum() / 9)
        spread = arm_spreads({"null": differences}, {"null": "baseline"})
        assert spread is not None
        of_seeds.append(spread.pooled.variance_M[0] / 3)
    assert np.mean(squares) == pytest.approx(np.mean(of_seeds), rel=0.25)
    assert abs(np.mean(products)) < 0.1 * np.mean(squares)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_degrees_of_freedom_of_shared_references(seeds: int) -> None:
    only = {f"a{i}": "base" for i in range(4)}
    ladder = {"a1": "a0", "a2": "a1", "a3": "a2", "a4": "a3"}
    one = {"a": "base"}
    apart = {"a": "b", "c": "d"}
    for references, expected in ((only, 16 / 7), (ladder, 32 / 11), (one, 1.0), (apart, 2.0)):
        pairs = [(arm, seed) for arm in references for seed in range(seeds)]
        assert seed_degrees(pairs, references) == pytest.approx(expected * (seeds - 1))


def test_the_pooled_variance_is_right_and_spreads_as_its_degrees_say() -> None:
    """For a scaled chi-squared variable the variance is 2 mean^2 / df; seeds are missing here and there."""
    references = {"a": "base", "b": "base", "c": "b"}
    have = {"a": range(4), "b": range(3), "c": range(1, 4)}
    rng, found = np.random.default_rng(0), []
    for _ in range(3000):
        score = {(arm, seed): rng.normal(0, 0.01) for arm in ("base", "a", "b", "c") for seed in range(4)}
        differences = {a: {s: np.array([score[a, s] - score[references[a], s]]) for s in seeds} for a, seeds in have.items()}
        found.append(_pooled(differences, references))
    variances = [spread.variance_M[0] for spread in found]
    assert np.mean(variances) == pytest.approx(2e-4, rel=0.04)
    assert 2 * np.mean(variances) ** 2 / np.var(variances) == pytest.approx(found[0].df, rel=0.12)


def test_with_seeds_alone_one_arm_is_the_paired_t_test() -> None:
    values = np.array([0.011, 0.024, 0.015, 0.03])
    spread = arm_spreads({"a": {seed: np.array([value]) for seed, value in enumerate(values)}}, {"a": "base"})
    assert spread is not None and not spread.own
    interval = combine(np.array([values.mean()]), 4, spread.of("a"), np.zeros(1), np.ones(1))
    expected = stats.ttest_1samp(values, 0)
    assert interval.p_M[0] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (interval.low_M[0], interval.high_M[0]) == (pytest.approx(low), pytest.approx(high))


def test_satterthwaite_by_hand() -> None:
    interval = combine(np.array([0.02]), 4, SeedSpread(np.array([4e-4]), 6.0), np.array([2e-4]), np.array([50.0]), tests=4)
    df = 3e-4**2 / (1e-4**2 / 6 + 2e-4**2 / 50)
    assert interval.p_M[0] == pytest.approx(2 * stats.t.sf(0.02 / math.sqrt(3e-4), df))
    assert interval.high_M[0] - 0.02 == pytest.approx(stats.t.ppf(0.975, df) * math.sqrt(3e-4))


def test_cochran_by_hand_for_a_single_arm() -> None:
    """The limit is the mean of both t limits, weighed by the parts of the variance; p is where it meets the mean."""
    interval = combine(np.array([0.02]), 4, SeedSpread(np.array([4e-4]), 3.0), np.array([2e-4]), np.array([50.0]))
    limit = (1e-4 * stats.t.ppf(0.975, 3) + 2e-4 * stats.t.ppf(0.975, 50)) / 3e-4
    assert interval.high_M[0] - 0.02 == pytest.approx(limit * math.sqrt(3e-4))
    tail = interval.p_M[0] / 2
    assert (1e-4 * stats.t.isf(tail, 3) + 2e-4 * stats.t.isf(tail, 50)) / 3e-4 == pytest.approx(0.02 / math.sqrt(3e-4))


def studies_of_normals(
    arms: int, seeds: int, *, studies: int, rows: float = 0.5, noisier: float = 1.0
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether zero is inside each arm's interval (studies, arms), and whether any is called helpful or harmful: nothing has an effect.

    Each trial has a normal part of its own, each arm one that all seeds share (`rows` times the seeds' part of the mean's variance).
    """
    rng, covered, wrong = np.random.default_rng([arms, seeds]), [], []
    references = {f"a{j}": "base" for j in range(arms)}
    for _ in range(studies):
        own = rng.normal(size=(arms + 1, seeds))
        own[1] *= noisier
        own += rng.normal(size=(arms + 1, 1)) * math.sqrt(rows / seeds)
        differences = {f"a{j}": {s: np.array([own[j + 1, s] - own[0, s]]) for s in range(seeds)} for j in range(arms)}
        spread = arm_spreads(differences, references)
        assert spread is not None
        known_rows = 2 * rows / seeds * rng.chisquare(60, arms) / 60
        found = [
            combine(np.mean(list(by_seed.values()), axis=0), seeds, spread.of(arm), known_rows[[j]], np.array([60.0]), arms)
            for j, (arm, by_seed) in enumerate(differences.items())
        ]
        covered.append([bool(interval.low_M[0] <= 0 <= interval.high_M[0]) for interval in found])
        wrong.append(min(holm([float(interval.p_M[0]) for interval in found])) < 0.05)
    return np.array(covered), np.array(wrong)


@pytest.mark.parametrize(("arms", "seeds"), [(1, 2), (1, 3), (1, 5), (2, 2), (4, 3)])
def test_false_verdicts_stay_at_five_percent_for_few_arms_and_seeds(arms: int, seeds: int) -> None:
    """A confirmation often has one arm: Satterthwaite's degrees alone would give 10, 7 and 6 % at 2, 3 and 5 seeds."""
    covered, wrong = studies_of_normals(arms, seeds, studies=700, rows=0.3)
    assert wrong.mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 700)
    assert covered.mean() >= 0.935


def test_an_arm_noisier_than_the_others_has_a_variance_of_its_own() -> None:
    """Three times the spread of the others: with the pooled variance its interval holds in 83 %."""
    covered, wrong = studies_of_normals(4, 5, studies=500, noisier=3.0)
    assert covered[:, 0].mean() > 0.89 and covered[:, 1:].mean() > 0.935
    assert wrong.mean() <= 0.08
    alike, _ = studies_of_normals(4, 5, studies=500)
    assert alike.mean() == pytest.approx(0.95, abs=0.015)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_effects_table() -> None:
    found = study_effects(study(), ARMS, LABELS, seconds={("good", 0): 10.0, ("good", 1): 20.0, ("baseline", 0): 5.0})
    assert found.table.schema == EFFECTS_SCHEMA and found.table.num_rows == 2 * 9
    good, same = row_of(found.table, "good"), row_of(found.table, "same")
    assert (good["verdict"], same["verdict"]) == ("helps", "no evidence")
    assert (good["seconds"], good["reference_seconds"], same["seconds"]) == (15.0, 5.0, None)
    assert (good["claim_low"], good["claim_high"], good["seeds"]) == (0.04, 0.06, 3)
    for row in found.table.to_pylist():
        assert row["low"] < row["difference"] < row["high"]
        assert row["difference"] == pytest.approx(row["score"] - row["reference_score"])
        assert (row["verdict"] is None) == (row["p_holm"] is None) == (row["metric"] != "overall")
    assert found.seed_sd is not None and found.row_sd is not None and found.detectable is not None
    assert found.detectable > math.sqrt(found.seed_sd**2 / 3 + found.row_sd**2)


def test_differences_are_those_of_scikit_learn() -> None:
    trials = study(2, missing=0.1)
    table = table_of(trials, ARMS, LABELS)

    def score(arm: str, seed: int) -> float:
        f1 = []
        for label, predicted in codes_of(trials[arm, seed]).values():
            f1.append(f1_score(label[label >= 0], predicted[label >= 0], average="macro"))
        return float(np.mean(f1))

    expected = np.mean([score("good", seed) - score("baseline", seed) for seed in range(2)])
    assert row_of(table, "good")["difference"] == pytest.approx(expected)


def test_the_order_of_trials_and_rows_is_of_no_consequence() -> None:
    trials = study()
    shuffled = {key: trials[key].take(np.random.default_rng(5).permutation(300)) for key in reversed(list(trials))}
    a, b = table_of(trials, ARMS, LABELS), table_of(shuffled, ARMS, LABELS)
    for column in ("difference", "low", "high", "p"):
        np.testing.assert_allclose(a[column].to_numpy(), b[column].to_numpy(), rtol=1e-9)


def test_a_missing_trial_costs_its_pair_and_no_more() -> None:
    trials = study(4)
    del trials["good", 2]
    table = table_of(trials, ARMS, LABELS)
    assert (row_of(table, "good")["seeds"], row_of(table, "same")["seeds"]) == (3, 4)
    without_reference = {key: value for key, value in study(2).items() if key[0] != "baseline"}
    assert table_of(without_reference, ARMS, LABELS).num_rows == 0


def test_one_seed_has_scores_but_no_interval_and_no_verdict() -> None:
    found = study_effects(study(1), ARMS, LABELS)
    row = row_of(found.table, "good")
    assert row["difference"] is not None and row["low"] is None and row["p"] is None and row["p_holm"] is None
    assert row["verdict"] == "no evidence" and found.detectable is None and found.seed_sd is None
    assert "One seed shows no spread" in render_effects(found.table)


def test_folds_have_other_rows_in_each_seed() -> None:
    """Seeds on rows of their own already show the rows' part between them: there are no pairs left to add."""
    trials = {(arm.name, seed): predictions(arm.name, seed, 200, first_row=200 * seed) for arm in ARMS for seed in range(3)}
    found = study_effects(trials, ARMS, LABELS)
    assert found.row_sd == 0 and row_of(found.table, "good")["verdict"] == "helps"


def test_by_title_the_rows_part_is_that_of_titles() -> None:
    trials = study(3)
    by_row, by_title = (study_effects(trials, ARMS, LABELS, by_title=flag) for flag in (False, True))
    assert by_row.seed_sd == pytest.approx(by_title.seed_sd) and by_row.row_sd != by_title.row_sd
    one = {key: table.set_column(2, "title", pa.array(["one"] * 300, pa.large_string())) for key, table in trials.items()}
    assert study_effects(one, ARMS, LABELS, by_title=True).row_sd == pytest.approx(by_row.row_sd)


def test_trials_that_cannot_be_paired_are_named() -> None:
    trials = study(2)
    with pytest.raises(DataError, match=r"seed 1: the arms baseline and same were judged on different rows \(20 rows"):
        table_of({**trials, ("same", 1): predictions("same", 1).slice(20)}, ARMS, LABELS)
    other = trials["good", 0]
    moved = other.set_column(other.column_names.index("sentiment_label"), "sentiment_label", other["sentiment_prediction"])
    with pytest.raises(DataError, match=r"seed 0: the arms baseline and good give row .* different labels of sentiment"):
        table_of({**trials, ("good", 0): moved}, ARMS, LABELS)
    both = pa.concat_tables([other, other.set_column(0, "split", pa.array(["train"] * 300))])
    with pytest.raises(DataError, match="arm good, seed 0: effects are judged on one split"):
        table_of({**trials, ("good", 0): both}, ARMS, LABELS)
    with pytest.raises(DataError, match=r"arm good, seed 0: .*no column"):
        table_of({**trials, ("good", 0): other.drop_columns(["sentiment_label"])}, ARMS, LABELS)


def test_an_arm_that_predicts_as_its_reference_is_no_evidence() -> None:
    trials = study(3)
    same = {key: trials["baseline", key[1]] if key[0] == "same" else table for key, table in trials.items()}
    row = row_of(table_of(same, ARMS, LABELS), "same")
    assert row["difference"] == 0 and row["p_holm"] == 1 and row["verdict"] == "no evidence"
    alone = {key: table for key, table in same.items() if key[0] != "good"}
    assert row_of(table_of(alone, ARMS, LABELS), "same")["p"] == 1


def test_the_detectable_effect_is_the_t_tests() -> None:
    """One arm and no rows' part: the noncentral t of the paired t test has the power at that effect."""
    effect = detectable_effect(0.012 / math.sqrt(5), 0.0, 1, 4.0)
    shift = effect / (0.012 / math.sqrt(5))
    limit = stats.t.ppf(0.975, 4)
    assert stats.nct.sf(limit, 4, shift) + stats.nct.cdf(-limit, 4, shift) == pytest.approx(0.8, abs=2e-3)


def test_the_detectable_effect_shrinks_with_seeds_and_never_below_the_rows_part() -> None:
    found = [detectable_effect(0.012 / math.sqrt(n), 0.008, 4, 16 / 7 * (n - 1)) for n in (2, 3, 5, 10, 1000)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx((stats.norm.ppf(1 - 0.05 / 8) + stats.norm.ppf(0.8)) * 0.008, rel=0.01)
    assert detectable_effect(0.01, 0.0, 8, 6.0) > detectable_effect(0.01, 0.0, 4, 6.0)
    assert detectable_effect(0.012, 0.0, 4, 0.0) == math.inf and detectable_effect(0.0, 0.0, 4, 6.0) == 0
    assert stated_row_sd(1500) == pytest.approx(0.01)
    with pytest.raises(ConfigError, match="at least one effect"):
        detectable_effect(0.012, 0.0, 0, 6.0)
    with pytest.raises(ConfigError, match="effect rows"):
        stated_row_sd(0)


def test_the_assumed_spread_is_that_of_studies_with_so_many_rows() -> None:
    """Within a fifth of each measured one; never larger with more rows, and level beyond the most that were measured."""
    for rows, measured in MEASURED_SEED_SD.items():
        assert stated_seed_sd(rows) == pytest.approx(measured, rel=0.2)
    found = [stated_seed_sd(rows) for rows in (50, 150, 300, 1000, 1495)]
    assert found == sorted(found, reverse=True) and stated_seed_sd(100_000) == stated_seed_sd(1495)


def test_a_screen_is_forecast_to_see_less_than_half_of_what_only_needs() -> None:
    """The seeds' part of an effect is 2 / sqrt(trials) of a trial's spread: 0.20 of it with 24 runs and 4 seeds, against 0.48 of `only`."""
    screen, only = forecast_screen(10, 24, 4, 1495), forecast_pairs(10, 9, 1495)
    assert (screen.trials, only.trials) == (96, 99)
    assert screen.detectable is not None and only.detectable is not None and screen.detectable < 0.5 * only.detectable
    assert forecast_screen(10, 12, 1, 1495).detectable > forecast_screen(10, 24, 1, 1495).detectable  # type: ignore[operator]
    assert forecast_pairs(10, 1, 1495).detectable is None


def trial(arm: str, seed: int, scores: list[float], seconds: float, stage: Stage = "confirm", status: Status = "finished") -> TrialRecord:
    curve = [{"progress": (i + 1) / len(scores), "epoch": i + 1, "overall": score} for i, score in enumerate(scores)]
    return TrialRecord(f"{arm}-{seed}", arm, seed, stage, status=status, curve=curve, train_seconds=seconds)


def test_the_score_at_equal_compute_is_cut_at_the_cheapest_arm() -> None:
    trials = [
        trial("baseline", 0, [0.4, 0.5, 0.45], 30),
        trial("baseline", 1, [0.4, 0.6, 0.5], 34),
        trial("long", 0, [0.3, 0.4, 0.5, 0.7], 64),
        trial("long", 1, [0.2, 0.6, 0.5, 0.9], 64),
        trial("huge", 0, [0.9], 100),
        trial("baseline", 2, [0.9], 5, status="stopped"),
        trial("baseline", 3, [0.9], 5, stage="explore"),
    ]
    found = equal_compute(trials)
    assert (found.cheapest, found.budget) == ("baseline", 32)
    by_arm = {entry.arm: entry for entry in found.arms}
    assert by_arm["baseline"].score == by_arm["baseline"].full_score == pytest.approx(0.55)
    assert by_arm["long"].score == pytest.approx(0.5) and by_arm["long"].full_score == pytest.approx(0.8)
    assert by_arm["huge"].score is None
    assert equal_compute([]).arms == []


def test_the_terminals_table() -> None:
    found = study_effects(study(), ARMS, LABELS, seconds={("good", 0): 10.0, ("baseline", 0): 5.0})
    text = render_effects(found.table, detectable=Detectable(before=0.0312, after=found.detectable))
    line = next(line for line in text.splitlines() if line.startswith("good"))
    assert "helps" in line and "+4.0 to +6.0" in line and "10 2.0x" in line
    assert "3.1 before the study" in text and "do not add up" in text and "non_polarized" in text
    assert all(len(line) <= 110 for line in text.splitlines())
    narrow = render_effects(found.table, width=80)
    assert all(len(line) <= 80 for line in narrow.splitlines()) and "helps" in narrow and "+4.0 to +6.0" in narrow
    assert "no effects to show" in render_effects(EFFECTS_SCHEMA.empty_table())
