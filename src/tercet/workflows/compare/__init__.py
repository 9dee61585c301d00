"""A fair comparison: a grid of networks, several seeds each, one table."""
