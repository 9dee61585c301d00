"""Cross-validation: one run a fold, and what the folds say together."""
