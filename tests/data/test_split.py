from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from polarity.config import DataConfig, SplitConfig
from polarity.data.split import SMALL_BYTES, is_small, load_splits, noted_split, split_indices
from polarity.errors import DataError

TASKS = ["sentiment", "polarization"]


def comments(rows: int, seed: int = 0, titles: int = 12, missing: float = 0.0) -> pa.Table:
    rng = np.random.default_rng(seed)

    def labels(shares: list[float]) -> pa.Array:
        return pa.array(rng.choice(3, rows, p=shares), pa.int8(), mask=rng.random(rows) < missing)

    popularity = rng.dirichlet(np.ones(titles))
    text = pa.large_string()
    return pa.table(
        {
            "row_id": pa.array([f"r{i}" for i in range(rows)], text),
            "title": pa.array([f"title {t}" for t in rng.choice(titles, rows, p=popularity)], text),
            "comment": pa.array([f"comment number {i}" for i in range(rows)], text),
            "sentiment": labels([0.59, 0.27, 0.14]),
            "polarization": labels([0.28, 0.06, 0.66]),
        }
    )


def assert_partition(parts: tuple[np.ndarray, ...], rows: int) -> None:
    assert sorted(np.concatenate(parts).tolist()) == list(range(rows))


def test_plan_is_scikit_learn_s_split_twice() -> None:
    table = comments(9965)
    parts = split_indices(table, SplitConfig(), TASKS)
    labels = table["sentiment"].to_numpy()
    train, held = train_test_split(np.arange(9965), test_size=0.30, random_state=42, stratify=labels)
    validation, test = train_test_split(held, test_size=0.50, random_state=42, stratify=labels[held])
    for own, literal in zip(parts, (train, validation, test), strict=True):
        np.testing.assert_array_equal(own, literal)
    assert [len(part) for part in parts] == [6975, 1495, 1495]


def test_plan_takes_other_tasks_seeds_and_shares() -> None:
    table = comments(100)
    labels = table["polarization"].to_numpy()
    split = SplitConfig(stratify="polarization", seed=7, validation=0.2, test=0.1)
    train, held = train_test_split(np.arange(100), test_size=30, random_state=7, stratify=labels)
    validation, test = train_test_split(held, test_size=10, random_state=7, stratify=labels[held])
    for own, literal in zip(split_indices(table, split, TASKS), (train, validation, test), strict=True):
        np.testing.assert_array_equal(own, literal)


def test_plan_makes_missing_labels_a_class() -> None:
    table = comments(400, missing=0.1)
    parts = split_indices(table, SplitConfig(), TASKS)
    missing = np.array([label is None for label in table["sentiment"].to_pylist()])
    shares = [missing[part].mean() for part in parts]
    np.testing.assert_allclose(shares, missing.mean(), atol=0.02)


@pytest.mark.parametrize("lone", [None, 2])
def test_plan_keeps_a_lone_row_in_train(lone: int | None) -> None:
    labels = pa.array([0, 1] * 20 + [lone], pa.int8())
    table = comments(41).set_column(3, "sentiment", labels)
    train, validation, test = split_indices(table, SplitConfig(), TASKS)
    assert 40 in train and sorted([*train, *validation, *test]) == list(range(41))


@pytest.mark.parametrize("kind", ["plan", "joint"])
@pytest.mark.parametrize("rows", [50, 90, 300])
def test_a_rare_class_with_a_row_for_each_part_is_in_each(kind: str, rows: int) -> None:
    """Three rows of a class among 50 to 300: any split by shares alone would leave a part without one."""
    table = comments(rows)
    rare = [2 if row in (3, 17, 31) else int(row % 2) for row in range(rows)]
    table = table.set_column(4, "polarization", pa.array(rare, pa.int8()))
    for seed in range(5):
        parts, notes = noted_split(table, SplitConfig(kind=kind, seed=seed), TASKS)
        assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
        for part in parts:
            for task in TASKS:
                assert set(table[task].to_numpy()[part]) == {0, 1, 2}, (task, seed, notes)
    named = noted_split(table, SplitConfig(kind=kind, seed=0), TASKS, {"polarization": ["a", "b", "rare"]})[1]
    assert all("polarization that is 'rare'" in note for note in named), "a class is told by its name"
    enough = comments(2000)
    assert noted_split(enough, SplitConfig(kind=kind), TASKS)[1] == [], "where nothing is lacking, nothing moves"


def test_a_class_of_too_few_rows_is_named_with_how_many_it_needs(tmp_path: Path) -> None:
    table = distinct(60, 3)
    table = table.set_column(3, "sentiment", pa.array([2 if row < 2 else row % 2 for row in range(60)], pa.int8()))
    source = write(tmp_path / "few.csv", table)
    with pytest.raises(DataError, match=r"no row of sentiment is 'positive'; a class needs 3 rows of it in all.*and better 7: label some"):
        load_splits(DataConfig(source=source), lambda line: None)


@pytest.mark.parametrize("rows", [100, 200, 300])
def test_few_made_up_rows_can_be_split(rows: int) -> None:
    splits = load_splits(DataConfig(source=f"sample:{rows}"), lambda line: None)
    assert sum(part.num_rows for part in splits.parts.values()) + splits.dropped == rows


def test_too_few_rows_are_refused() -> None:
    four = comments(4).set_column(3, "sentiment", pa.array([0, 0, 1, 1], pa.int8()))
    with pytest.raises(DataError, match="4 rows are too few"):  # one row cannot stand for two classes
        split_indices(four, SplitConfig(validation=0.1, test=0.1), TASKS)
    with pytest.raises(DataError, match="no rows"):
        split_indices(comments(0), SplitConfig(), TASKS)


@pytest.mark.parametrize("kind", ["plan", "joint", "group"])
def test_no_test_share_gives_no_test(kind: Any) -> None:
    train, validation, test = split_indices(comments(300), SplitConfig(kind=kind, test=0.0), TASKS)
    assert len(test) == 0
    assert_partition((train, validation), 300)
    assert len(validation) == pytest.approx(45, abs=20 if kind == "group" else 1)


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(0, 99), st.sampled_from([(0.15, 0.15), (0.2, 0.1), (0.1, 0.0), (0.3, 0.4)]))
def test_joint_gives_every_combination_its_share_within_a_row(rows: int, seed: int, shares: tuple[float, float]) -> None:
    table = comments(rows, seed, missing=0.05)
    parts, notes = noted_split(table, SplitConfig(kind="joint", seed=seed, validation=shares[0], test=shares[1]), TASKS)
    assert_partition(parts, rows)
    assert abs(len(parts[1]) + len(parts[2]) - sum(shares) * rows) <= 0.5 + 1e-9
    if notes:  # a rare class was seen to, at the expense of a combination's share
        return
    pairs = list(zip(table["sentiment"].to_pylist(), table["polarization"].to_pylist(), strict=True))
    whole = Counter(pairs)
    held = Counter(pairs[i] for i in [*parts[1], *parts[2]])
    for pair, n in whole.items():
        assert abs(held[pair] - n * (len(parts[1]) + len(parts[2])) / rows) < 1 + 1e-6
        assert abs(sum(pairs[i] == pair for i in parts[2]) - held[pair] * len(parts[2]) / max(sum(held.values()), 1)) < 1 + 1e-6


@pytest.mark.parametrize("kind", ["joint", "group"])
def test_folds_test_every_row_once(kind: Any) -> None:
    table, folds = comments(400, titles=30), 5
    tested, validated = [], []
    for fold in range(folds):
        parts = split_indices(table, SplitConfig(kind=kind, folds=folds, fold=fold), TASKS)
        assert_partition(parts, 400)
        tested.append(parts[2])
        validated.append(parts[1])
    assert_partition(tuple(tested), 400)
    for fold in range(folds):
        np.testing.assert_array_equal(validated[fold], tested[(fold + 1) % folds])
    if kind == "joint":
        assert {len(part) for part in tested} == {80}
        counts = np.array([np.bincount(table["sentiment"].to_numpy()[part], minlength=3) for part in tested])
        assert (np.ptp(counts, axis=0) <= 3).all()  # one row for each of the three combinations that a class is in


@pytest.mark.parametrize("split", [SplitConfig(kind="group"), SplitConfig(kind="group", folds=4, fold=1)])
def test_group_keeps_titles_whole(split: SplitConfig) -> None:
    table = comments(2000, titles=41)
    shouted = pa.array([t.upper() + " " if i % 3 else t for i, t in enumerate(table["title"].to_pylist())], pa.large_string())
    parts = split_indices(table.set_column(1, "title", shouted), split, TASKS)
    assert_partition(parts, 2000)
    titles = [set(table["title"].take(part).to_pylist()) for part in parts]
    assert all(not titles[a] & titles[b] for a, b in ((0, 1), (0, 2), (1, 2)))


def test_group_is_near_the_shares_and_balanced() -> None:
    table = comments(9965, titles=41)
    parts = split_indices(table, SplitConfig(kind="group"), TASKS)
    np.testing.assert_allclose([len(part) / 9965 for part in parts], [0.7, 0.15, 0.15], atol=0.02)
    for task in TASKS:
        everywhere = np.bincount(table[task].to_numpy(), minlength=3) / 9965
        for part in parts:
            own = np.bincount(table[task].to_numpy()[part], minlength=3) / len(part)
            assert np.abs(own - everywhere).max() < 0.04


def test_group_prefers_parts_with_every_class() -> None:
    """One title in five holds all the objective rows: the best order gives each part some."""
    table = comments(1000, titles=20)
    number = np.array([int(title.split()[1]) for title in table["title"].to_pylist()])
    labels = np.where(number % 5 == 0, 1, 2)
    labels[::7] = 0
    table = table.set_column(4, "polarization", pa.array(labels.astype(np.int8)))
    for part in split_indices(table, SplitConfig(kind="group"), TASKS):
        assert set(labels[part]) == {0, 1, 2}


def test_group_needs_titles() -> None:
    table = comments(100)
    without = table.set_column(1, "title", pa.array([""] * 100, pa.large_string()))
    with pytest.raises(DataError, match=r"data\.title_column"):
        split_indices(without, SplitConfig(kind="group"), TASKS)
    with pytest.raises(DataError, match="at least 3 titles"):
        split_indices(comments(100, titles=2), SplitConfig(kind="group"), TASKS)
    with pytest.raises(DataError, match="at least 9 titles"):
        split_indices(comments(100, titles=4), SplitConfig(kind="group", folds=9), TASKS)


@pytest.mark.parametrize("kind", ["plan", "joint", "group"])
def test_the_seed_decides_and_nothing_else(kind: Any) -> None:
    table = comments(500)
    first, again = (split_indices(table, SplitConfig(kind=kind), TASKS) for _ in range(2))
    other = split_indices(table, SplitConfig(kind=kind, seed=1), TASKS)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert set(other[2].tolist()) != set(first[2].tolist())


def test_column_says_the_part() -> None:
    words = ["train", " Training ", "VAL", "dev", "valid", "validation", "Test", "train"]
    table = comments(8).append_column("split", pa.array(words, pa.large_string()))
    parts = split_indices(table, SplitConfig(kind="column"), TASKS)
    assert [part.tolist() for part in parts] == [[0, 1, 7], [2, 3, 4, 5], [6]]


def test_column_refuses_other_words_and_names_the_rows() -> None:
    table = comments(4).append_column("split", pa.array(["train", "tset", None, "dev"], pa.large_string()))
    with pytest.raises(DataError, match=r"column 'part'.*'tset' in row r1, None in row r2"):
        split_indices(table, SplitConfig(kind="column", column="part"), TASKS)
    with pytest.raises(DataError, match=r"data\.split\.column"):
        split_indices(comments(4), SplitConfig(kind="column"), TASKS)


SENTIMENT = ["negative", "neutral", "positive"]
POLARIZATION = ["non_polarized", "objective", "partisan"]


def write(path: Path, table: pa.Table, ids: bool = True) -> str:
    rows = ["row_id,Title,Comment,Final Sentiment,Final Polarization" if ids else "Title,Comment,Final Sentiment,Final Polarization"]
    for row in table.to_pylist():
        cells = [row["title"], row["comment"]]
        cells += ["" if row[task] is None else names[row[task]] for task, names in zip(TASKS, (SENTIMENT, POLARIZATION), strict=True)]
        rows.append(",".join([row["row_id"], *cells] if ids else cells))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def own_files(sources: dict[str, str], **more: str) -> DataConfig:
    return DataConfig.model_validate({**sources, **more})


def distinct(rows: int, seed: int) -> pa.Table:
    """Comments of which no two are alike: twelve random words each."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    texts = [" ".join("".join(rng.choice(letters, 5)) for _ in range(12)) for _ in range(rows)]
    return comments(rows, seed).set_column(2, "comment", pa.array(texts, pa.large_string()))


def test_loads_and_cuts_a_source(tmp_path: Path) -> None:
    said: list[str] = []
    splits = load_splits(DataConfig(source=write(tmp_path / "all.csv", distinct(400, 1)), split=SplitConfig(kind="joint")), said.append)
    assert {name: table.num_rows for name, table in splits.parts.items()} == {"train": 280, "validation": 60, "test": 60}
    assert splits.dropped == 0
    assert any("train 280 (70.0%)" in line and "all labels jointly" in line for line in said)


def test_files_with_numbered_rows_get_unique_ids(tmp_path: Path) -> None:
    said: list[str] = []
    names = ("train", "validation", "test")
    sources = {name: write(tmp_path / f"{name}.csv", distinct(80, seed), ids=False) for seed, name in enumerate(names)}
    splits = load_splits(own_files(sources), said.append)
    ids = [i for table in splits.parts.values() for i in table["row_id"].to_pylist()]
    assert len(set(ids)) == 240
    assert all(i.startswith("train/") for i in splits.train["row_id"].to_pylist())
    assert any("train/..." in line for line in said)


def with_copies(tmp_path: Path) -> dict[str, str]:
    """Three training rows are copies of validation and test rows, one validation row of a test row; titles and ids as they should be."""
    parts = {name: distinct(90, seed) for seed, name in enumerate(("train", "validation", "test"), start=1)}
    parts = {
        name: table.set_column(0, "row_id", pa.array([f"{name}-{i}" for i in range(90)], pa.large_string()))
        for name, table in parts.items()
    }
    rows = {name: table.to_pylist() for name, table in parts.items()}
    for (to, i), (of, j) in {
        ("train", 3): ("validation", 5),
        ("train", 4): ("test", 6),
        ("train", 8): ("test", 7),
        ("validation", 9): ("test", 1),
    }.items():
        rows[to][i] = {**rows[to][i], "comment": rows[of][j]["comment"], "title": rows[of][j]["title"]}
    return {name: write(tmp_path / f"{name}.csv", pa.Table.from_pylist(own, schema=parts[name].schema)) for name, own in rows.items()}


def test_leaking_training_rows_are_dropped_and_shown(tmp_path: Path) -> None:
    said: list[str] = []
    splits = load_splits(own_files(with_copies(tmp_path)), said.append)
    assert splits.dropped == 3
    assert set(splits.leaks["train_row_id"].to_pylist()) == {"train-3", "train-4", "train-8"}
    assert splits.train.num_rows == 87
    assert not pc.any(pc.is_in(splits.train["row_id"], value_set=splits.leaks["train_row_id"])).as_py()
    assert splits.validation.num_rows == 90
    assert any("3 training rows" in line and "train-3 = validation-5 (duplicate)" in line for line in said)
    assert any("1 validation rows" in line and "validation-9 = test-1" in line for line in said)


def test_leaks_can_be_an_error_or_allowed(tmp_path: Path) -> None:
    sources, said = with_copies(tmp_path), list[str]()
    with pytest.raises(DataError, match="train-3 = validation-5"):
        load_splits(own_files(sources, duplicates="error"), said.append)
    splits = load_splits(own_files(sources, duplicates="allow"), said.append)
    assert (splits.train.num_rows, splits.dropped, splits.leaks.num_rows) == (90, 0, 0)  # not even looked for: that takes time


def only(table: pa.Table, part: str, task: str, classes: set[int | None]) -> pa.Table:
    return table.filter(pa.array([label in classes for label in table[task].to_pylist()]))


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({0}, "every label of sentiment is 'negative'"),
        ({0, 1}, "no row of sentiment is 'positive'"),
        ({None}, "no row has a label of sentiment"),
    ],
)
def test_every_part_needs_every_class(tmp_path: Path, part: str, classes: set[int | None], message: str) -> None:
    tables = {"train": distinct(120, 1), "validation": distinct(120, 2)}
    if classes == {None}:
        tables[part] = tables[part].set_column(3, "sentiment", pa.nulls(120, pa.int8()))
    tables[part] = only(tables[part], part, "sentiment", classes)
    sources = {name: write(tmp_path / f"{name}.csv", table) for name, table in tables.items()}
    with pytest.raises(DataError, match=rf"{part} \(.*{part}\.csv\): {message}"):
        load_splits(own_files(sources), lambda line: None)


def test_a_part_without_rows_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "all.csv"
    lines = Path(write(source, distinct(60, 1))).read_text(encoding="utf-8").splitlines()
    source.write_text("\n".join([lines[0] + ",split", *(line + ",train" for line in lines[1:])]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"validation .*no rows"):
        load_splits(DataConfig(source=str(source), split=SplitConfig(kind="column")), lambda line: None)


def test_no_source_is_a_clear_error() -> None:
    with pytest.raises(DataError, match="--data FILE"):
        load_splits(DataConfig(), lambda line: None)


def test_small_is_a_local_file_or_the_sample(tmp_path: Path) -> None:
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    small.write_text("Comment")
    with large.open("wb") as file:
        file.truncate(SMALL_BYTES + 1)
    assert is_small(DataConfig(source=str(small))) and is_small(DataConfig(source="sample:300"))
    assert is_small(DataConfig(train=str(small), validation=str(small)))
    for other in (large, tmp_path, tmp_path / "missing.csv"):
        assert not is_small(DataConfig(train=str(small), validation=str(other)))
    folder = tmp_path / "folder"
    folder.mkdir()
    small.rename(folder / "small.parquet")
    assert is_small(DataConfig(source=str(folder)))
    large.rename(folder / "large.parquet")
    assert not is_small(DataConfig(source=str(folder)))
    assert not is_small(DataConfig(source="hf:someone/comments"))
    assert not is_small(DataConfig(source="s3://bucket/comments.csv"))
