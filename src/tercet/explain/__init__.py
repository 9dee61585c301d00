"""Explanations: class-activation maps, attention rollout, step contributions, filters and feature maps."""
