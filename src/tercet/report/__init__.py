"""HTML reports of finished runs."""
