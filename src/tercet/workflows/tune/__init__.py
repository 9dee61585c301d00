"""A search for better options of one network."""
