"""Presets of the planner, and what a host has and a node may have at a moment."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orcha_pipeline.model import RESOURCES, Resources
from orcha_pipeline.settings import PRESETS, HostSettings, NodeSettings, PlannerSettings, Preset
from orcha_pipeline.settings_file import load_settings
from orcha_pipeline.timetable import Bounds

AMOUNTS = {"cpu_threads": 8.0, "memory_gib": 16.0, "disk_gb": 4000.0, "bandwidth_mbps": 250.0}
EVENING = {"from": "18:00", "until": "23:00"}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def host(*schedules: dict[str, object]) -> HostSettings:
    return HostSettings.model_validate({"name": "attic", "capacity": AMOUNTS, "schedules": schedules})


def node(*schedules: dict[str, object], **values: object) -> NodeSettings:
    told = {"name": "n", "protocol": "storj", "host": "attic", "url": "http://a", "demand": AMOUNTS}
    return NodeSettings.model_validate({**told, "schedules": schedules, **values})


# --- presets


def test_without_a_preset_the_balanced_one_holds():
    assert PlannerSettings() == PlannerSettings(preset="balanced")
    for key, value in PRESETS["balanced"].items():
        assert getattr(PlannerSettings(), key) == PlannerSettings.model_fields[key].default == value


@given(
    preset=st.sampled_from(get_args(Preset)),
    given_keys=st.dictionaries(st.sampled_from(sorted(PRESETS["bold"])), st.floats(0, 1)),
)
def test_a_preset_sets_what_the_operator_does_not(preset, given_keys):
    planner = PlannerSettings.model_validate({"preset": preset, **given_keys})
    for key, value in {**PRESETS[preset], **given_keys}.items():
        assert getattr(planner, key) == value
    assert (planner.hold_minutes, planner.max_changes_per_hour, planner.response_curvature) == (60, 4, 0.9)
    assert (planner.power_usd_per_kwh, planner.exploration) == (0, 0)


def test_every_preset_sets_the_same_keys():
    assert set(PRESETS) == set(get_args(Preset))
    assert len({frozenset(keys) for keys in PRESETS.values()}) == 1


def test_file_and_environment_win_over_the_preset_of_either(tmp_path):
    file = tmp_path / "orcha.toml"
    file.write_text('[planner]\npreset = "strict"\nmin_gain_percent = 3\nrisk_aversion = 0.1')
    planner = load_settings(file, {"ORCHA_PLANNER__MIN_CONFIDENCE": "0.9"}).planner
    assert (planner.min_gain_percent, planner.min_gain_usd_per_hour, planner.min_confidence) == (3, 0.5, 0.9)
    planner = load_settings(file, {"ORCHA_PLANNER__PRESET": "cautious"}).planner
    assert (planner.preset, planner.min_confidence, planner.reputation_hours) == ("cautious", 0.85, 2)
    assert (planner.min_gain_percent, planner.risk_aversion) == (3, 0.1)


@pytest.mark.parametrize("preset", ["brave", "", None, 3, ["bold"]])
def test_an_unknown_preset_is_refused(preset):
    with pytest.raises(ValidationError, match="preset"):
        PlannerSettings.model_validate({"preset": preset})


def test_the_documentation_shows_what_each_preset_sets():
    text = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    heads = re.search(r"\| Key \| (`\"cautious\"`.*) \|", text)
    assert heads is not None
    presets = re.findall(r'`"(\w+)"`', heads[1])
    for key in PRESETS["balanced"]:
        row = re.search(rf"\| `{key}` \| ((?:`[0-9.]+` \|? ?)+)\n", text)
        assert row is not None, key
        assert [float(value) for value in re.findall(r"`([0-9.]+)`", row[1])] == [PRESETS[p][key] for p in presets]


# --- a host's capacity


def test_a_schedule_takes_from_the_capacity_only_while_it_holds():
    attic = host({**EVENING, "bandwidth_mbps": 125, "cpu_threads": 4})
    less = Resources(**{**AMOUNTS, "bandwidth_mbps": 125, "cpu_threads": 4})
    assert attic.capacity_at(utc("2026-01-14T17:59")) == Resources(**AMOUNTS)
    assert attic.capacity_at(utc("2026-01-14T18:00")) == less
    assert attic.capacity_at(utc("2026-01-14T23:00")) == Resources(**AMOUNTS)


@pytest.mark.parametrize(
    ("moment", "hours", "bandwidth"),
    [
        ("16:59", 1, 250),
        ("17:00", 1, 125),
        ("17:00", 0, 250),
        ("22:59", 1, 125),
        ("23:00", 18.9, 250),
        ("10:00", 24, 125),
    ],
)
def test_a_schedule_counts_if_it_holds_at_any_time_of_the_hours_asked_for(moment, hours, bandwidth):
    attic = host({**EVENING, "bandwidth_mbps": 125})
    assert attic.capacity_at(utc(f"2026-01-14T{moment}"), hours).bandwidth_mbps == bandwidth


@given(first=st.floats(0, 250), second=st.floats(0, 250), hour=st.integers(0, 47), hours=st.floats(0, 24))
def test_of_several_schedules_the_least_holds_and_never_more_than_the_capacity(first, second, hour, hours):
    attic = host({**EVENING, "bandwidth_mbps": first}, {**EVENING, "days": ["wed"], "bandwidth_mbps": second})
    moment = utc(f"2026-01-{14 + hour // 24}T{hour % 24:02}:00")
    now, later = attic.capacity_at(moment).as_dict(), attic.capacity_at(moment, hours).as_dict()
    assert all(later[name] <= now[name] <= AMOUNTS[name] for name in RESOURCES)
    if 18 <= hour < 23:
        assert now["bandwidth_mbps"] == min(first, second)
    if 18 <= hour - 24 < 23:
        assert now["bandwidth_mbps"] == first


# --- a node's bounds


def test_a_nodes_bounds_come_from_its_pin_its_schedules_and_its_own():
    evening, noon = utc("2026-01-14T20:00"), utc("2026-01-14T12:00")
    told = {**EVENING, "timezone": "Europe/Berlin", "max_share": 0.5}
    assert node(told).bounds_at(noon) == Bounds(0.05, 1.0, "")
    assert node(told).bounds_at(evening) == Bounds(0.05, 0.5, "18:00 to 23:00 (Europe/Berlin): at most 0.50")
    assert node(told, pin=0.4).bounds_at(evening) == Bounds(0.4, 0.4, "pinned at 0.40 by the operator")


def test_schedules_are_written_again_as_they_are_read():
    given_schedule = {**EVENING, "days": ["sat"], "timezone": "Asia/Tokyo", "pin": 0.2}
    once = node(given_schedule)
    assert NodeSettings.model_validate_json(once.model_dump_json()) == once
