"""Checks of a data set before training: defects, duplicates, leaks, label errors."""
