"""Training: the plain torch loop, its checkpoints, and the Ray Train driver around it."""
