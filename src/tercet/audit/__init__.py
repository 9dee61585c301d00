"""Checks of a data set before training: unreadable images, duplicates, leakage, label errors."""
