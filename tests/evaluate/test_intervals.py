import numpy as np
import pyarrow as pa
import pytest
from judged import PLAN, judged
from scipy.stats import t as student
from sklearn.metrics import f1_score

from polarity.errors import DataError
from polarity.evaluate import evaluate_split, paired_difference
from polarity.evaluate.intervals import MOST_GROUPS, Unit, interval, joint_cells, scores_of, title_degrees, unit_of
from polarity.evaluate.metrics import confusion_matrix, macro_f1
from polarity.evaluate.predictions import task_codes, title_codes


def naive_overall(table: pa.Table, draws: list[np.ndarray]) -> np.ndarray:
    """Overall macro-F1 of explicit resamples of rows, with scikit-learn."""
    codes = [task_codes(table, task, classes) for task, classes in PLAN.items()]
    found = []
    for rows in draws:
        scores = []
        for true, predicted in codes:
            known = rows[true[rows] >= 0]
            scores.append(f1_score(true[known], predicted[known], labels=range(3), average="macro", zero_division=0))
        found.append(np.mean(scores))
    return np.array(found)


def assert_same_distribution(ours: np.ndarray, naive: np.ndarray) -> None:
    spread = naive.std()
    assert ours.mean() == pytest.approx(naive.mean(), abs=0.2 * spread)
    assert ours.std() == pytest.approx(spread, rel=0.15)
    np.testing.assert_allclose(np.percentile(ours, [2.5, 97.5]), np.percentile(naive, [2.5, 97.5]), atol=0.4 * spread)


def test_resampling_cells_is_resampling_rows() -> None:
    table = judged(120, missing=0.1)
    rng = np.random.default_rng(7)
    naive = naive_overall(table, [rng.integers(0, 120, 120) for _ in range(600)])
    _, ours = scores_of(table, PLAN, unit_of(table, False), resamples=4000, seed=0)
    assert_same_distribution(ours.overall, naive)


def test_tasks_share_the_resample() -> None:
    table = judged(150)
    copied = {**PLAN, "twin": PLAN["sentiment"]}
    for name in [n for n in table.column_names if n.startswith("sentiment_")]:
        table = table.append_column(name.replace("sentiment", "twin", 1), table[name])
    _, spread = scores_of(table, copied, unit_of(table, False), resamples=200, seed=0)
    np.testing.assert_array_equal(spread.macro["sentiment"], spread.macro["twin"])
    assert not np.array_equal(spread.macro["sentiment"], spread.macro["polarization"])


def test_titles_that_differ_widen_the_interval() -> None:
    rows = [judged(60, seed, skill=skill, titles=1) for seed, skill in enumerate([0.0, 4.0] * 6)]
    parts = []
    for index, part in enumerate(rows):
        ids = pa.array([f"{index}-{i}" for i in range(60)], pa.large_string())
        titles = pa.array([f"t{index}"] * 60, pa.large_string())
        parts.append(part.set_column(1, "row_id", ids).set_column(2, "title", titles))
    table = pa.concat_tables(parts)
    by_row, by_title = (evaluate_split(table, PLAN, resamples=1000, by_title=b, with_slices=False) for b in (False, True))
    assert by_title["intervals"]["unit"] == "title"
    assert by_title["intervals"]["units"] == 12
    assert np.ptp(by_title["overall"]["ci95"]) > 2 * np.ptp(by_row["overall"]["ci95"])


def test_few_titles_are_said() -> None:
    few = evaluate_split(judged(60, titles=4), PLAN, resamples=100, by_title=True, with_slices=False)
    assert few["intervals"]["note"] == "only 4 titles: no verdict is given below 6"
    assert few["no_verdict"] == "too few titles"
    one = evaluate_split(judged(60, titles=1), PLAN, resamples=100, by_title=True, with_slices=False)
    assert one["intervals"]["unit"] == "row"
    assert "one title" in one["intervals"]["note"] and one["no_verdict"] == "too few titles"
    enough = evaluate_split(judged(60, titles=6), PLAN, resamples=100, by_title=True, with_slices=False)
    assert "note" not in enough["intervals"] and enough["no_verdict"] is None


def test_left_out_titles_are_scored_as_scikit_learn_does() -> None:
    table = judged(120, titles=7, missing=0.1)
    unit = unit_of(table, True)
    point, without = scores_of(table, PLAN, unit, resamples=100, seed=0)
    groups, titles = title_codes(table)
    naive = naive_overall(table, [np.flatnonzero(groups != title) for title in range(len(titles))])
    np.testing.assert_allclose(np.sort(without.overall), np.sort(naive))
    shares = np.bincount(groups) / 120
    reach = student.ppf(0.975, 1 / (shares**2).sum() - 1) * np.sqrt(6 / 7 * ((naive - point.overall[0]) ** 2).sum())
    low, high = unit.interval(float(point.overall[0]), without.overall)
    assert high - point.overall[0] == pytest.approx(reach) == point.overall[0] - low


def test_a_row_without_a_title_is_a_unit_of_its_own() -> None:
    table = judged(60, titles=3)
    titles = ["" if row < 20 else title for row, title in enumerate(table["title"].to_pylist())]
    unit = unit_of(table.set_column(2, "title", pa.array(titles, pa.large_string())), True)
    assert unit.count == 20 + len(set(titles[20:]))


def test_any_number_of_titles_costs_no_more_than_a_thousand() -> None:
    table = judged(3000, titles=1)
    own = table.set_column(2, "title", pa.array([f"t{row}" for row in range(3000)], pa.large_string()))
    unit = unit_of(own, True)
    _, without = scores_of(own, PLAN, unit, resamples=100, seed=0)
    assert unit.count == 3000 and len(without.overall) == MOST_GROUPS
    by_title, by_row = (evaluate_split(own, PLAN, resamples=1000, by_title=b, with_slices=False) for b in (True, False))
    # a title a row: both are of single rows
    assert np.ptp(by_title["overall"]["ci95"]) == pytest.approx(np.ptp(by_row["overall"]["ci95"]), rel=0.15)


def titles_population(rng: np.random.Generator, titles: int, uneven: float) -> np.ndarray:
    """Confusions (G, K, K) of titles that differ in size, class balance and difficulty."""
    sizes = np.maximum(1, (rng.lognormal(0, uneven, titles) * 36 / np.exp(uneven**2 / 2)).astype(int))
    shares = rng.dirichlet(np.array([0.3, 0.25, 0.45]) * 6, titles)
    counts = np.stack([rng.multinomial(size, share) for size, share in zip(sizes, shares, strict=True)])
    right = np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.1, 0.15, 0.75]])
    chances = np.stack([rng.dirichlet(row * 8, titles) for row in right], axis=1)
    return rng.multinomial(counts, chances).astype(np.float64)


@pytest.mark.parametrize("titles", [6, 12, 41])
def test_an_interval_over_few_titles_covers_the_truth(titles: int) -> None:
    """400 samples of titles; a percentile bootstrap covers 81 to 90 % here at 6 titles. (1,000 samples: jobs/EXPERIMENTS.md.)"""
    rng = np.random.default_rng(titles)
    truth = float(macro_f1(titles_population(rng, 40_000, 0.8).sum(axis=0)))
    covered = 0
    for _ in range(400):
        counts = titles_population(rng, titles, 0.8)
        unit = Unit("title", np.arange(titles), titles, degrees=title_degrees(counts.sum(axis=(1, 2))))
        whole = counts.sum(axis=0)
        low, high = unit.interval(float(macro_f1(whole)), macro_f1(whole - counts))
        covered += low <= truth <= high
    assert covered >= 0.92 * 400  # 95 % less 2.7 standard deviations


def test_the_seed_fixes_the_numbers() -> None:
    table = judged(100)
    one, same, other = (evaluate_split(table, PLAN, resamples=300, seed=s, by_title=False) for s in (1, 1, 2))
    assert one == same
    assert one["overall"]["macro_f1"] == other["overall"]["macro_f1"]
    assert one["overall"]["ci95"] != other["overall"]["ci95"]


def test_the_interval_covers_the_truth_in_about_19_of_20_samples() -> None:
    single = {"sentiment": PLAN["sentiment"]}
    big = judged(200_000, seed=99, labels=single)
    truth = float(macro_f1(confusion_matrix(*task_codes(big, "sentiment", PLAN["sentiment"]), 3)))
    covered = 0
    for seed in range(200):
        table = judged(400, seed, labels=single)
        low, high = interval(scores_of(table, single, unit_of(table, False), resamples=300, seed=seed)[1].overall)
        covered += low <= truth <= high
    assert 180 <= covered <= 199  # 95 % of 200 is 190, standard deviation 3


def test_joint_cells_do_not_overflow_with_many_columns() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.integers(-1, 100, 50) for _ in range(40)]
    ids, first = joint_cells([*columns])
    rows = np.stack(columns, axis=1)
    assert len(first) == len(np.unique(rows, axis=0))
    np.testing.assert_array_equal(rows[first][ids], rows)


def test_paired_difference_of_a_table_with_itself_is_zero() -> None:
    table = judged(100)
    same = paired_difference(table, table, PLAN, resamples=200)
    assert same["overall"] == {"difference": 0.0, "ci95": [0.0, 0.0], "verdict": "within noise"}
    assert same["per_class"]["polarization"]["objective"]["difference"] == 0.0


def test_paired_difference_calls_a_gain_only_where_it_excludes_zero() -> None:
    weak, strong, other = judged(400, skill=1.0), judged(400, skill=3.0), judged(400, skill=1.0, noise_seed=2)
    assert paired_difference(strong, weak, PLAN)["overall"]["verdict"] == "gain"
    assert paired_difference(weak, strong, PLAN)["overall"]["verdict"] == "loss"
    assert paired_difference(weak, other, PLAN)["overall"]["verdict"] == "within noise"


def test_paired_difference_matches_rows_and_scores() -> None:
    a, b = judged(300, skill=2.0, missing=0.1), judged(300, skill=1.0, missing=0.1)
    shuffled = b.take(pa.array(np.random.default_rng(0).permutation(300)))
    found = paired_difference(a, shuffled, PLAN, resamples=200, by_title=True)
    assert found == paired_difference(a, b, PLAN, resamples=200, by_title=True)
    scores = [evaluate_split(t, PLAN, resamples=100, by_title=False, with_slices=False) for t in (a, b)]
    assert found["overall"]["difference"] == pytest.approx(scores[0]["overall"]["macro_f1"] - scores[1]["overall"]["macro_f1"])
    f1s = [s["tasks"]["sentiment"]["per_class"]["neutral"]["f1"] for s in scores]
    assert found["per_class"]["sentiment"]["neutral"]["difference"] == pytest.approx(f1s[0] - f1s[1])


def test_pairing_is_narrower_than_two_separate_samples() -> None:
    a = judged(400, skill=1.0)
    changed = a.slice(0, 380)
    b = pa.concat_tables([changed, judged(400, skill=1.0, noise_seed=2).slice(380)])
    paired = np.ptp(paired_difference(a, b, PLAN)["overall"]["ci95"])
    assert paired < 0.5 * np.ptp(evaluate_split(a, PLAN, resamples=1000, by_title=False, with_slices=False)["overall"]["ci95"])


def test_paired_difference_refuses_other_rows_and_other_labels() -> None:
    table = judged(50)
    with pytest.raises(DataError, match="2 row ids are only in the first, 0 only in the second"):
        paired_difference(table, table.slice(2), PLAN)
    flipped = pa.array(["neutral", *table["sentiment_label"].to_pylist()[1:]], pa.string())
    other = table.set_column(table.column_names.index("sentiment_label"), "sentiment_label", flipped)
    if other.equals(table):
        pytest.fail("the first label was neutral already: choose another seed")
    with pytest.raises(DataError, match="row 'r0' different labels of sentiment"):
        paired_difference(table, other, PLAN)
