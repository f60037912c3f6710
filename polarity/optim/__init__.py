"""The optimizer: layer-wise learning rates, schedules, gradient centralization."""
