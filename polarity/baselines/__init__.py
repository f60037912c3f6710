"""The floors that every result stands beside: majority, title only, linear. Fitted on training rows only."""

from polarity.baselines.floors import floors
from polarity.baselines.linear import linear
from polarity.baselines.majority import majority
from polarity.baselines.title import title_only

__all__ = ["floors", "linear", "majority", "title_only"]
