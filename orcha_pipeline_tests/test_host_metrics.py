import psutil
import pytest

from orcha_pipeline.host_metrics import read_host_metrics
from orcha_pipeline.model import Provenance


def values(folder):
    return {reading.metric: reading for reading in read_host_metrics(folder)}


def test_this_machine_gives_every_metric_measured(tmp_path):
    found = values(tmp_path)
    assert {r.provenance for r in found.values()} == {Provenance.MEASURED}
    assert 0 < found["memory_used_bytes"].value < found["memory_total_bytes"].value
    assert 0 < found["disk_used_bytes"].value < found["disk_total_bytes"].value
    assert found["cpu_busy_seconds_total"].value > 0


def test_cpu_totals_run_forwards_and_need_no_waiting(tmp_path):
    first, second = values(tmp_path), values(tmp_path)
    for metric in ("cpu_busy_seconds_total", "cpu_idle_seconds_total", "network_received_bytes_total"):
        assert second[metric].value >= first[metric].value


def test_busy_and_idle_make_up_all_the_time_there_was(tmp_path, monkeypatch):
    times = type(psutil.cpu_times())
    given = dict.fromkeys(times._fields, 0.0) | {"user": 50.0, "system": 20.0, "idle": 100.0}
    given |= {name: value for name, value in {"iowait": 5.0, "guest": 10.0}.items() if name in times._fields}
    monkeypatch.setattr(psutil, "cpu_times", lambda: times(**given))
    found = values(tmp_path)
    assert found["cpu_busy_seconds_total"].value == 70.0  # a guest's 10 s are in the 50 s of user already
    assert found["cpu_idle_seconds_total"].value == 105.0


def test_a_data_folder_that_is_not_there_yet_is_measured_by_its_parent(tmp_path):
    assert values(tmp_path / "not" / "yet")["disk_total_bytes"].value == values(tmp_path)["disk_total_bytes"].value


def test_blocks_that_are_kept_for_root_are_no_room(tmp_path, monkeypatch):
    disk = type(psutil.disk_usage("/"))
    monkeypatch.setattr(psutil, "disk_usage", lambda _: disk(total=1000, used=950, free=0, percent=100.0))
    found = values(tmp_path)
    assert (found["disk_used_bytes"].value, found["disk_total_bytes"].value) == (950.0, 950.0)


@pytest.mark.parametrize("answer", [None, OSError("no /proc/net/dev")])
def test_a_metric_the_machine_does_not_give_is_unknown_and_the_rest_stand(tmp_path, monkeypatch, answer):
    def counters():
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(psutil, "net_io_counters", counters)
    found = values(tmp_path)
    assert found["network_sent_bytes_total"].value is None
    assert found["network_sent_bytes_total"].provenance is Provenance.UNKNOWN
    assert found["memory_used_bytes"].value > 0
