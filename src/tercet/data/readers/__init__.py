"""Readers of class folders, zip archives and tables."""
