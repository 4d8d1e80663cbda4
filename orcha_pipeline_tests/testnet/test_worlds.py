import gzip
import math
import random
import re
import statistics
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.model import Resources
from orcha_pipeline.testnet import noise
from orcha_pipeline.testnet.levers import equal_shares
from orcha_pipeline.testnet.played import load_world, read_prices, read_world
from orcha_pipeline.testnet.worlds import DAY, HOUR, PROTOCOLS, TOKENS, WEEK, seeded_world

START = int(datetime(2026, 10, 21, tzinfo=UTC).timestamp())  # a Wednesday
MONDAY = datetime(2025, 1, 6, tzinfo=UTC)
SHARED = Path(__file__).parents[3] / "shared"

TOML = """
name = "tiny"
step_minutes = 15
history_days = 2
[capacity]
cpu_threads = 16.0
memory_gib = 64.0
disk_gb = 8000.0
bandwidth_mbps = 500.0
""" + "".join(
    f"""
[protocols.{protocol}]
demand = {{ cpu_threads = 8.5, memory_gib = 30.0, disk_gb = 5000.0, bandwidth_mbps = 300.0 }}
min_share = 0.2
max_share = 1
curvature = 0.9
restart_seconds = 5
cooldown_hours = 0
"""
    for protocol in PROTOCOLS
)


def write_world(folder: Path, *, days: int = 15) -> Path:
    """A world whose yield tells the step it was recorded at."""
    folder.mkdir(exist_ok=True)
    (folder / "world.toml").write_text(TOML)
    rows = ["time,protocol,yield_usd_per_hour,available"]
    for step in range(days * 96):
        at = datetime.fromtimestamp(MONDAY.timestamp() + step * 900, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        rows += [f"{at},{protocol},{step + 1},{0 if step == 5 else 1}" for protocol in PROTOCOLS]
    (folder / "yields.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_prices(path: Path, *, weeks: int = 3, start: datetime = MONDAY) -> Path:
    rows = ["unique_id,ds,y"]
    for hour in range(weeks * 168):
        at = datetime.fromtimestamp(start.timestamp() + hour * 3600, UTC).strftime("%Y-%m-%d %H:%M:%S")
        rows += [f"GLM,{at},{1.0 + hour / 1000}", f"DATA,{at},{0.02 + hour / 100000}"]
    data = ("\n".join(rows) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def figures(world, moments):
    return [
        (world.usd_yield(protocol, at), world.available(protocol, at), world.price(TOKENS[protocol], at))
        for at in moments
        for protocol in PROTOCOLS
    ]


@given(st.integers(0, 10**6), st.integers(0, 4 * 10**9))
def test_a_seeded_world_gives_the_same_answer_whatever_was_asked_before(seed, at):
    noise.uniform.cache_clear()
    alone = figures(seeded_world(seed), [at])
    world = seeded_world(seed)
    noise.uniform.cache_clear()
    shuffled = [at + offset for offset in range(-5 * HOUR, 6 * HOUR, HOUR)]
    random.Random(at).shuffle(shuffled)
    several = dict(zip(shuffled, (figures(world, [moment]) for moment in shuffled), strict=True))
    assert several[at] == alone
    assert all(math.isfinite(usd) and usd > 0 and price > 0 for usd, _, price in alone)


def test_worlds_of_different_seeds_differ():
    moments = range(START, START + DAY, HOUR)
    assert figures(seeded_world(1), moments) != figures(seeded_world(2), moments)
    assert seeded_world(1).protocols != seeded_world(2).protocols


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_seeded_world_is_contended_and_its_days_can_be_learned(seed):
    world = seeded_world(seed)
    moments = list(range(START, START + 28 * DAY, HOUR))
    peaks, total = {}, 0.0
    share = equal_shares(world)
    for protocol, terms in world.protocols.items():
        yields = [world.usd_yield(protocol, at) * world.available(protocol, at) for at in moments]
        by_hour = [statistics.mean(yields[hour::24]) for hour in range(24)]
        peaks[protocol] = by_hour.index(max(by_hour))
        total += statistics.mean(yields) * share[protocol] ** terms.curvature
        assert 0.88 <= terms.curvature <= 0.96
        assert 0.97 < statistics.mean(world.available(protocol, at) for at in moments) <= 1.0
        if protocol != "storj":
            assert max(by_hour) > 2.0 * min(by_hour)
    assert 0.05 < total < 0.2
    assert abs(peaks["golem"] - 14) <= 2
    assert min(abs(peaks["streamr"] - 20), 24 - abs(peaks["streamr"] - 20)) <= 2
    assert min(abs(peaks["grass"] - 3), 24 - abs(peaks["grass"] - 3)) <= 2
    full = [terms.demand.as_dict() for terms in world.protocols.values()]
    assert sum(demand["cpu_threads"] for demand in full) > 2 * world.capacity.cpu_threads


def test_native_yield_times_price_is_the_usd_yield():
    world = seeded_world(4)
    for protocol in PROTOCOLS:
        native, unit = world.native_rate(protocol, START), world.unit_usd(protocol, START)
        assert world.usd_yield(protocol, START) == native * unit
    assert world.unit_usd("storj", START) == 1.0
    assert world.unit_usd("golem", START) == world.price("GLM", START)


def test_a_shift_multiplies_one_protocol_from_its_moment_on():
    world = seeded_world(1)
    shifted = world.shift("golem", 3.0, START + 60)
    assert shifted.native_rate("golem", START + 59) == world.native_rate("golem", START + 59)
    assert shifted.native_rate("golem", START + 60) == pytest.approx(3 * world.native_rate("golem", START + 60))
    assert shifted.native_rate("grass", START + 60) == world.native_rate("grass", START + 60)
    assert not world.shifts


def test_equal_shares_are_the_largest_that_fit():
    world = seeded_world(1)
    shares = equal_shares(world)
    used = Resources()
    totals = dict.fromkeys(used.as_dict(), 0.0)
    for protocol, share in shares.items():
        for name, amount in world.protocols[protocol].demand.scaled(share).as_dict().items():
            totals[name] += amount
    use = {name: totals[name] / limit for name, limit in world.capacity.as_dict().items()}
    assert max(use.values()) == pytest.approx(1.0, abs=1e-6)
    assert max(use.values()) <= 1.0 + 1e-9


# ---------------------------------------------------------------- played worlds


def test_a_played_world_keeps_hour_and_weekday_and_repeats_whole_weeks(tmp_path):
    world = read_world(write_world(tmp_path / "w"), seed=1, start=START)
    # 15 days are recorded: two whole weeks are played. The start is a Wednesday, so recorded step 2 x 96 comes first.
    assert world.usd_yield("golem", START) == pytest.approx(2 * 96 + 1)
    for weeks in (0, 2, 40):
        at = START + weeks * WEEK + 7 * HOUR
        assert world.usd_yield("grass", at) == pytest.approx(2 * 96 + 28 + 1)
    monday = START - 2 * DAY
    assert not world.available("storj", monday + 5 * 900)
    assert world.available("storj", monday + 6 * 900)


def test_a_played_world_comes_out_in_usd_as_recorded_whatever_the_seeded_prices_do(tmp_path):
    world = read_world(write_world(tmp_path / "w"), seed=1, start=START)
    natives = {world.native_rate("golem", START + week * 2 * WEEK) for week in range(5)}
    assert len(natives) == 5
    assert {round(world.usd_yield("golem", START + week * 2 * WEEK), 9) for week in range(5)} == {193.0}


@pytest.mark.parametrize(
    ("line", "replacement", "complaint"),
    [
        (1, "when,protocol,yield,available", r"yields\.csv:1: .*Write time,protocol"),
        (3, "2025-01-06T00:00:00Z,golem,abc,1", r"yields\.csv:3: 'abc' is not a usable number"),
        (3, "2025-01-06T00:00:00Z,golem,-1,1", r"yields\.csv:3: '-1' is not a usable number"),
        (3, "2025-01-06T00:00:00Z,golem,nan,1", r"yields\.csv:3: 'nan'"),
        (3, "2025-01-06T00:00:00Z,filecoin,1,1", r"yields\.csv:3: protocol 'filecoin'"),
        (3, "2025-01-06T00:00:00Z,golem,1,yes", r"yields\.csv:3: available is 'yes'.*1 or 0"),
        (3, "2025-01-06T00:07:00Z,golem,1,1", r"yields\.csv:3: .*15 minute grid"),
        (3, "yesterday,golem,1,1", r"yields\.csv:3: 'yesterday' is not a time"),
        (3, "2025-01-06T00:00:00Z,storj,1,1", r"yields\.csv:3: .*twice"),
        (3, "2025-01-06T00:00:00Z,golem,1", r"yields\.csv:3: 3 fields"),
        (7, None, r"yields\.csv: rows are .*golem 1439"),
    ],
)
def test_a_bad_world_file_is_named_with_its_line_and_the_remedy(tmp_path, line, replacement, complaint):
    folder = write_world(tmp_path / "w")
    rows = (folder / "yields.csv").read_text().splitlines()
    rows[line - 1 : line] = [] if replacement is None else [replacement]
    (folder / "yields.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(SettingsError, match=complaint):
        read_world(folder, seed=1, start=START)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("step_minutes = 15", "step_minutes = 7", "step_minutes is 7.*divides an hour"),
        ("[protocols.grass]", "[protocols.helium]", "protocols are .*helium.*The testnet emulates"),
        ("curvature = 0.9", "curvature = 1.5", r"protocols\.storj needs .*curvature"),
        ("cpu_threads = 16.0", 'cpu_threads = "16"', r"capacity\.cpu_threads is '16'"),
        ("[capacity]", "[capacity", "is not TOML.*line"),
    ],
)
def test_a_bad_world_description_is_named_with_the_remedy(tmp_path, old, new, complaint):
    folder = write_world(tmp_path / "w")
    (folder / "world.toml").write_text(TOML.replace(old, new, 1))
    with pytest.raises(SettingsError, match=complaint):
        read_world(folder, seed=1, start=START)


def test_a_missing_world_folder_is_a_settings_error(tmp_path):
    with pytest.raises(SettingsError, match=re.escape(str(tmp_path / "none" / "world.toml"))):
        load_world(seed=1, world=tmp_path / "none")


# ---------------------------------------------------------------- price files


@pytest.mark.parametrize("name", ["prices.csv", "prices.csv.gz"])
def test_recorded_prices_are_played_hour_by_hour_and_end_after_the_start(tmp_path, name):
    prices = read_prices(write_prices(tmp_path / name), seed=1, start=START)
    recorded = {round(1.0 + hour / 1000, 9): hour for hour in range(3 * 168)}
    first = recorded[round(prices.usd("GLM", START), 9)]
    # Wednesday midnight stays Wednesday midnight, and what comes next is the next hour of the record.
    assert first % 168 == 48
    assert first < 3 * 168 - 168
    assert prices.usd("GLM", START + HOUR - 1) == prices.usd("GLM", START)
    assert recorded[round(prices.usd("GLM", START + HOUR), 9)] == first + 1
    assert prices.usd("GLM", START + 3 * WEEK) == prices.usd("GLM", START)
    assert prices.usd("DATA", START) == pytest.approx(0.02 + first / 100000)


def test_tokens_without_a_record_keep_the_seeded_price(tmp_path):
    prices = read_prices(write_prices(tmp_path / "p.csv"), seed=3, start=START)
    assert prices.usd("GRASS", START) == seeded_world(3).price("GRASS", START)
    assert prices.usd("STORJ", START) == seeded_world(3).prices.usd("STORJ", START)


def test_usd_yield_is_native_demand_times_the_recorded_price(tmp_path):
    world = load_world(seed=1, prices=write_prices(tmp_path / "p.csv"), start=START)
    reference = world.prices.reference("GLM")
    for at in range(START, START + 2 * DAY, HOUR):
        assert world.usd_yield("golem", at) == pytest.approx(world.native_rate("golem", at) * world.price("GLM", at))
    seeded = seeded_world(1)
    demand = seeded.native_rate("golem", START) * seeded.prices.reference("GLM")
    assert world.native_rate("golem", START) == pytest.approx(demand / reference)
    assert world.native_rate("storj", START) == seeded.native_rate("storj", START)


@pytest.mark.parametrize(
    ("line", "replacement", "complaint"),
    [
        (1, "id,ds,y", r"p\.csv:1: .*Write unique_id,ds,y"),
        (4, "BTC,2025-01-06 01:00:00,1", r"p\.csv:4: unique_id 'BTC'.*STORJ, GLM, DATA"),
        (4, "GLM,2025-01-06 01:00:00,0", r"p\.csv:4: '0' is not a usable number"),
        (4, "GLM,06.01.2025,1", r"p\.csv:4: '06.01.2025' is not a time"),
        (4, "GLM,2025-01-06 00:00:00,1", r"p\.csv:4: .*twice"),
    ],
)
def test_a_bad_price_file_is_named_with_its_line_and_the_remedy(tmp_path, line, replacement, complaint):
    path = write_prices(tmp_path / "p.csv")
    rows = path.read_text().splitlines()
    rows[line - 1] = replacement
    path.write_text("\n".join(rows))
    with pytest.raises(SettingsError, match=complaint):
        read_prices(path, seed=1, start=START)


def test_a_price_file_that_is_not_gzip_is_a_settings_error(tmp_path):
    (tmp_path / "p.csv.gz").write_text("unique_id,ds,y\n")
    with pytest.raises(SettingsError, match=r"p\.csv\.gz cannot be read"):
        read_prices(tmp_path / "p.csv.gz", seed=1, start=START)


def test_the_real_worlds_and_prices_can_be_played():
    prices = SHARED / "data" / "token_prices_hourly.csv.gz"
    folder = SHARED / "worlds" / "contended-11"
    if not prices.exists() or not folder.exists():
        pytest.skip("the shared worlds and prices are not on this machine")
    world = load_world(seed=1, world=folder, prices=prices, start=START)
    span = range(START, START + 10 * WEEK, 6 * HOUR)
    assert all(0 < world.usd_yield(protocol, at) < 5 for protocol in PROTOCOLS for at in span)
    # GLM is recorded from 2023 on; its price then was some 15 to 35 cents.
    assert all(0.1 < world.price("GLM", at) < 0.5 for at in span)
