"""Backups: everything an installation cannot get back otherwise, in one archive, and the way back from it."""
