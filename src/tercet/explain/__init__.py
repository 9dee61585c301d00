"""Explanations of a classifier: filters, feature maps, activation maps, attention, contributions of steps."""
