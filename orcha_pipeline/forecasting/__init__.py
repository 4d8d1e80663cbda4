"""Yield forecasts: features, models, their registry and serving."""
