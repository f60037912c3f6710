"""The best model for some rows: folds, members, what combines them, the plan for a budget, and how much better it could get."""
