"""Ports of loopback that nobody listens on now."""

import socket


def free_ports(count: int) -> list[int]:
    """Different ones."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def free_port() -> int:
    """One."""
    return free_ports(1)[0]
