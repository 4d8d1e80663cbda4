"""Emulated nodes and economy. Shares no parsing code with the adapters, so that each can catch the other."""
