"""How a host enforces a limit on a node and restarts it."""
