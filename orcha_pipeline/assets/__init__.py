"""Dagster assets and their checks: thin, each calls one function of another package."""
