"""Learning-rate schedules, pure functions of the step: (s + 1) / W in warm-up, then linear or cosine (with restarts) to the floor."""

import math

from polarity.config import OptimConfig


def shape(schedule: str, progress: float, cycles: int) -> float:
    """Height between floor (0) and peak (1) at `progress` in [0, 1) after warm-up; cosines as in transformers' schedules."""
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 0.5 * (1.0 + math.cos(math.pi * ((cycles * progress) % 1.0)))


def warmup_steps(config: OptimConfig, total_steps: int) -> int:
    """W, whole steps."""
    return round(config.warmup_ratio * total_steps)


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Rate of the step `step` (from 0) for a multiplier of 1; each group's is this times its multiplier."""
    warmup = warmup_steps(config, total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    height = shape(config.schedule, min(progress, 1.0), config.cycles) if progress < 1.0 else 0.0
    return config.lr_floor + (config.lr - config.lr_floor) * height
