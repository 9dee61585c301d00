"""Floor 3: predictions of any module, their metrics, ensembles, comparisons and tables."""
