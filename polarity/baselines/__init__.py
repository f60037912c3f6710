"""The floors that every result stands beside: majority, title only, linear. Fitted on training rows only."""

from polarity.baselines.floors import floors
from polarity.baselines.linear import fit_linear, linear
from polarity.baselines.majority import majority, title_only
from polarity.baselines.saved import load_linear, save_linear

__all__ = ["fit_linear", "floors", "linear", "load_linear", "majority", "save_linear", "title_only"]
