"""The code server and the daemon as `orcha up` keeps them, with definitions that may kill at a boundary.

    python -m orcha_pipeline_tests.integration.kept_services

prints a line once both are up, then keeps them until it is ended.
"""

import dataclasses
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from orcha_pipeline.installation import open_installation
from orcha_pipeline.supervisor import RestartPolicy, Service, Supervisor
from orcha_pipeline.up import services_of
from orcha_pipeline_tests.integration import watched_definitions

KEPT = ("code-server", "daemon")
READY = "ready"
EACH_TIME_AT_ONCE = RestartPolicy(longest_delay=1.0)
"""What is killed again and again is no service that keeps dying."""


def _watched(service: Service) -> Service:
    command = [
        watched_definitions.__name__ if word == "orcha_pipeline.definitions" else word for word in service.command
    ]
    assert service.name != "code-server" or watched_definitions.__name__ in command
    path = str(Path(__file__).resolve().parents[2])
    return dataclasses.replace(service, command=command, env={**service.env, "PYTHONPATH": path})


def main() -> None:
    """Keep them until a signal says to end."""
    services = services_of(open_installation(), None, datetime.now(UTC))
    assert watched_definitions.ORDER in os.environ
    with suppress(KeyboardInterrupt), Supervisor(EACH_TIME_AT_ONCE) as supervisor:
        supervisor.start([_watched(service) for service in services if service.name in KEPT])
        sys.stdout.write(f"{READY}\n")
        sys.stdout.flush()
        supervisor.watch()


if __name__ == "__main__":
    main()
