"""What the machine Orcha runs on uses now, by psutil.

CPU is given as running totals of seconds: a ratio needs two looks and time between them, which differences of the
totals in the warehouse give without waiting here.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from orcha_pipeline.model import Provenance, UsageReading

_Read = Callable[[], float]


def read_host_metrics(data_folder: Path) -> tuple[UsageReading, ...]:
    """CPU, memory, network, load, and the disk that holds `data_folder` (or will: the nearest folder that exists).

    A metric this machine does not give is unknown; the others stand.
    """
    return tuple(_reading(metric, read) for metric, read in _reads(data_folder).items())


def _reads(data_folder: Path) -> dict[str, _Read]:
    return {
        "cpu_busy_seconds_total": partial(_cpu_seconds, idle=False),
        "cpu_idle_seconds_total": partial(_cpu_seconds, idle=True),
        "memory_used_bytes": lambda: float(psutil.virtual_memory().total - psutil.virtual_memory().available),
        "memory_total_bytes": lambda: float(psutil.virtual_memory().total),
        "disk_used_bytes": lambda: float(psutil.disk_usage(str(_existing(data_folder))).used),
        "disk_total_bytes": lambda: _usable_disk(data_folder),
        "network_received_bytes_total": lambda: _network("bytes_recv"),
        "network_sent_bytes_total": lambda: _network("bytes_sent"),
        "load_average_1m": lambda: psutil.getloadavg()[0],
    }


def _reading(metric: str, read: _Read) -> UsageReading:
    try:
        value = read()
    except (psutil.Error, OSError) as error:
        source = f"psutil: {type(error).__name__}: {error}"
        return UsageReading(metric=metric, value=None, provenance=Provenance.UNKNOWN, source=source)
    return UsageReading(metric=metric, value=value, provenance=Provenance.MEASURED, source="psutil")


def _cpu_seconds(*, idle: bool) -> float:
    times = psutil.cpu_times()
    resting = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts a guest's time in `user` and `nice` too.
    twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return resting if idle else sum(times) - resting - twice


def _usable_disk(data_folder: Path) -> float:
    disk = psutil.disk_usage(str(_existing(data_folder)))
    # Many file systems keep blocks for root: by their whole size a full disk would have room left.
    return float(disk.used + disk.free)


def _network(counter: str) -> float:
    counters: object = psutil.net_io_counters()
    value: int | None = getattr(counters, counter, None)
    if value is None:  # psutil gives no counters where there is no network interface
        raise OSError("there are no network counters")
    return float(value)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
