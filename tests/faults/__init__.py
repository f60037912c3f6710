"""Faults on purpose: a small training on a local cluster is disturbed at random moments and compared with an undisturbed one."""
