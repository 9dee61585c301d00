"""Readers of class folders, tables and annotation files."""
