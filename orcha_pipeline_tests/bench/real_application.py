"""One application of the installation in force, in a process of its own, killed with SIGKILL at one of its boundaries.

    python -m orcha_pipeline_tests.bench.real_application DECISION APPLICATION BOUNDARY

A boundary lies before and after every write of a step and every move of a lever. BOUNDARY -1: it is not killed.
"""

import sys
from contextlib import suppress

from orcha_pipeline.allocation import apply
from orcha_pipeline.allocation.executor import ApplicationError
from orcha_pipeline.ingest import open_adapters
from orcha_pipeline.installation import open_installation
from orcha_pipeline_tests.boundaries import killed_at, watch_applications


def main() -> None:
    """Apply; a failure is on record and no failure of this process."""
    decision_id, application_id, boundary = sys.argv[1], sys.argv[2], int(sys.argv[3])
    boundaries = killed_at(boundary)
    watch_applications(boundaries)
    installation = open_installation()
    with open_adapters(installation) as adapters, suppress(ApplicationError):
        for adapter in adapters.values():
            adapter.apply = boundaries.around(adapter.apply)
        apply.carry_out(
            decision_id,
            application_id=application_id,
            run_id="bench",
            installation=installation,
            warehouse=installation.warehouse,
            adapters=adapters,
        )


if __name__ == "__main__":
    main()
