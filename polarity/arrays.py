"""Kinds of numpy arrays that the rooms pass to each other, each under one name."""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Codes = NDArray[np.int64]
"""Class indices of a task, -1 where the label is missing."""
Rows = NDArray[np.int64]
"""Positions of rows in a table."""
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
