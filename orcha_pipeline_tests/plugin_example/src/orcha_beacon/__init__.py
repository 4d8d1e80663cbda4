"""Beacon relay nodes for Orcha."""
