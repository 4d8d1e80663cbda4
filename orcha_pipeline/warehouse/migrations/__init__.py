"""Numbered SQL scripts, each run once, in order."""
