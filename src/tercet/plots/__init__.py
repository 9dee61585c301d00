"""Matplotlib figures, each drawn on given axes, and the HTML page that holds them."""
