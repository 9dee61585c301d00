"""One run: members trained side by side, fused, measured once."""
