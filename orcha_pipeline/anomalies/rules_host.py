"""Rules on a machine. No model, no I/O."""

from datetime import datetime

from orcha_pipeline.anomalies.anomaly import Anomaly, Severity
from orcha_pipeline.anomalies.catalogue import DISK_FILLING
from orcha_pipeline.anomalies.trend import Samples, heading, in_days
from orcha_pipeline.disk import GIB

SOON = 1.0
"""Days until it is full: from here on it is critical."""
LEAST_FREE_GIB = 1.0
"""So little is critical, however slowly it fills."""


def disk_filling(host: str, used: Samples, total_bytes: float, *, at: datetime, days: float) -> Anomaly | None:
    """`disk-filling`: by its course of a day or a week the disk is full within `days`, or less than 1 GiB is free.

    `used` are bytes by time. The score is the part in use.
    """
    if not used or total_bytes <= 0:
        return None
    free = (total_bytes - used[-1][1]) / GIB
    full = heading(used, total_bytes, falling=False)
    soon = full is not None and full.days <= days
    if free >= LEAST_FREE_GIB and not soon:
        return None
    evidence = f"{free:.1f} GiB of {total_bytes / GIB:.0f} are free for Orcha's data folder"
    if full is not None and soon:
        evidence += f", and {full.slope / GIB:.2g} GiB more are used each day: full in {in_days(full.days)}"
    urgent = free < LEAST_FREE_GIB or (full is not None and full.days <= SOON)
    severity = Severity.CRITICAL if urgent else Severity.WARNING
    return DISK_FILLING.found(host, evidence, at=at, severity=severity, score=used[-1][1] / total_bytes)
