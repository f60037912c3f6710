"""Ablations and searches: their designs, the Ray Tune run, and the statistics of what they find."""
