"""Orcha re-divides a machine between DePIN nodes by what each of them earns."""
