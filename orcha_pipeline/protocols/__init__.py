"""Adapters: one module a protocol, all keeping the contract in `base`."""
