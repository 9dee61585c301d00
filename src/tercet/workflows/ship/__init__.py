"""From a bundle to one verified file, its speed, and its server."""
