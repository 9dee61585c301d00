"""What a bundle's networks saw."""
