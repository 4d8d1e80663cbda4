from datetime import UTC, datetime

import pytest

from orcha_pipeline.forecasting.artifact import Candidate, Manifest
from orcha_pipeline.forecasting.promotion import judge

AT = datetime(2026, 2, 2, tzinfo=UTC)


def manifest(served, naive, target="yield_usd"):
    def candidate(wape):
        return Candidate() if wape is None else Candidate(scores={"wape": wape}, by_target={target: {"wape": wape}})

    return Manifest(
        protocol="storj",
        trained_at=AT,
        dagster_run_id="",
        code_version="0",
        seed=7,
        horizon_hours=24,
        quantiles=(0.1, 0.5, 0.9),
        targets=("yield_usd", "net_native"),
        series=(),
        data_start=AT,
        data_end=AT,
        fitted_before=AT,
        tested_from=AT,
        origins=11,
        data_sha256="0",
        candidates={"served": candidate(served), "seasonal_naive": candidate(naive)},
        selection={},
        saved=(),
        files={},
    )


def champion(wape, target="yield_usd"):
    return {target: {"wape": wape}}


@pytest.mark.parametrize(
    ("served", "naive", "standing", "promoted", "words"),
    [
        (0.20, 0.30, None, True, "there was no champion"),
        (0.30, 0.30, None, False, "no better than seasonal naive's 0.300"),
        (0.31, 0.30, 0.40, False, "no better than seasonal naive's 0.300"),
        (0.20, 0.30, 0.21, True, "than champion 4's 0.210"),
        (0.20, 0.30, 0.20, False, "no better than champion 4's 0.200"),
        (0.20, 0.30, 0.19, False, "no better than champion 4's 0.190"),
        (None, None, None, False, "it has beaten nobody"),
    ],
)
def test_only_what_beats_naive_and_champion_takes_its_place(served, naive, standing, promoted, words):
    verdict = judge(
        manifest(served, naive),
        champion=None if standing is None else champion(standing),
        champion_version="4",
    )
    assert verdict.promoted is promoted
    assert words in verdict.why


def test_the_figures_and_the_number_of_origins_stand_in_the_reason():
    assert "WAPE 0.200 of yield_usd at 11 origins" in judge(manifest(0.2, 0.3), champion=None).why


def test_native_earnings_decide_where_no_yield_is_known():
    verdict = judge(manifest(0.2, 0.3, target="net_native"), champion=champion(0.25, "net_native"))
    assert verdict.promoted
    assert "of net_native" in verdict.why


def test_a_champion_without_an_answer_there_is_no_hindrance():
    assert judge(manifest(0.2, 0.3), champion={}, champion_version="4").promoted
