"""Tercet."""
