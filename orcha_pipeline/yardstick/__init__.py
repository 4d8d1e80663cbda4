"""Policies measured in worlds whose every yield is known: `orcha backtest allocation`."""
