"""A postman that dies between a channel taking a message and the warehouse knowing of it.

`python -m ... HOME URL`: sends what is due, and is killed by its own hand once the first message was taken.
"""

import os
import signal
import sys
from pathlib import Path

from orcha_pipeline.anomalies.alerts.delivery import Courier, Outcome
from orcha_pipeline.anomalies.alerts.postman import Postman
from orcha_pipeline_tests.anomalies.alerts.build import Rig


class Deadly(Courier):
    def send(self, *arguments, **named) -> Outcome:
        outcome = super().send(*arguments, **named)
        assert outcome.taken
        os.kill(os.getpid(), signal.SIGKILL)
        return outcome


if __name__ == "__main__":
    rig = Rig(Path(sys.argv[1]), channels=[{"name": "hook", "url": sys.argv[2]}])
    Postman(rig.installation, Deadly()).finish(wait=60)
