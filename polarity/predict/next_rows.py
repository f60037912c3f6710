"""Which rows to label next: those the classifier is least sure of, spread over titles and over kinds of comments.

Uncertainty sampling alone picks many copies of one hard kind (Settles 2009); so the uncertain rows are clustered, and the least sure one
of each cluster is taken (clustered uncertainty sampling, compare Zhdanov 2019), with no title taking more than its share.

Shapes: N rows, K classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from polarity.evaluate.predictions import Floats

POOL = 5
"""The least sure rows that are clustered, as a multiple of the rows wanted."""
DIMENSIONS = 50
TITLE_SHARE = 3.0
"""A title may give so many times its share of the pool, and always two rows."""


def uncertainty(probabilities: Mapping[str, Floats]) -> Floats:
    """Of each row (N,): the mean over the tasks of 1 - (largest - second largest probability), 0 for sure, 1 for a tie."""
    margins = []
    for of_task in probabilities.values():
        ordered_NK = np.sort(np.asarray(of_task, np.float64), axis=1)
        margins.append(1.0 - (ordered_NK[:, -1] - ordered_NK[:, -2]))
    found: Floats = np.mean(margins, axis=0)
    return found


def next_rows(
    probabilities: Mapping[str, Floats], comments: Sequence[str], titles: Sequence[str], count: int, seed: int = 0
) -> NDArray[np.int64]:
    """Positions of the `count` rows to label next, the most urgent first. `probabilities` is {task: (N, K)}; all rows have a comment.

    Where there are no more than `count` rows, all of them, by falling uncertainty. The same seed gives the same rows.
    """
    doubt = uncertainty(probabilities)
    order = np.argsort(-doubt, kind="stable")
    if len(order) <= count:
        return order
    pool = order[: count * POOL]
    cluster = _clusters([comments[row] for row in pool], count, seed)
    quota = {title: max(2, round(TITLE_SHARE * rows / len(pool) * count)) for title, rows in Counter(titles[row] for row in pool).items()}
    chosen: list[int] = []
    used: Counter[str] = Counter()
    seen: set[int] = set()
    # Round one takes the least sure of each cluster, round two fills up by doubt, round three where the titles' shares leave too few.
    for one_a_cluster, by_title in ((True, True), (False, True), (False, False)):
        taken = set(chosen)
        for row, group in zip(pool.tolist(), cluster, strict=True):
            full = by_title and used[titles[row]] >= quota[titles[row]]
            if len(chosen) == count or row in taken or full or (one_a_cluster and group in seen):
                continue
            chosen.append(row)
            taken.add(row)
            seen.add(int(group))
            used[titles[row]] += 1
    found: NDArray[np.int64] = np.array(sorted(chosen, key=lambda row: -doubt[row]), np.int64)
    return found


def _clusters(comments: Sequence[str], count: int, seed: int) -> NDArray[np.int64]:
    """A cluster for each comment, by what characters it is written with: near-copies and one kind of remark fall together."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    words = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=50_000).fit_transform(comments)
    dimensions = min(DIMENSIONS, words.shape[1] - 1, words.shape[0] - 1)
    if dimensions < 2 or len(set(comments)) < 2:  # copies of one text are one cluster
        return np.zeros(len(comments), np.int64)
    points = normalize(TruncatedSVD(dimensions, random_state=seed).fit_transform(words))
    found: NDArray[np.int64] = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=4096).fit_predict(points).astype(np.int64)
    return found
