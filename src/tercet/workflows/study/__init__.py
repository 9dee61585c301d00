"""Published experiments: recipes, the runs they are made of, and published numbers beside measured ones."""
