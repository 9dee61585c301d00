"""Readers: what lies on disk (folders, tables, archives, IDX files), told as plain rows."""
