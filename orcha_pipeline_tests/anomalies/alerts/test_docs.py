"""What docs/alerts.md says of alerts is what the code does."""

from pathlib import Path

import pytest

from orcha_pipeline.anomalies import catalogue
from orcha_pipeline.anomalies.alerts import causes, grouping, told
from orcha_pipeline.anomalies.alerts.view import alerts_json
from orcha_pipeline_tests.anomalies.alerts.build import an_alert
from orcha_pipeline_tests.rig import NOW

PAGE = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text(encoding="utf-8")
LIFE = PAGE.partition("\n## Rules\n")[0]


@pytest.mark.parametrize("rule", causes.RULES.values(), ids=list(causes.RULES))
def test_what_no_single_anomaly_tells_has_its_place_on_the_page(rule):
    assert f'<a id="{rule.id}"></a>`{rule.id}`' in LIFE
    assert f"`{rule.severity}`" in LIFE
    assert rule.id == causes.CHANNEL_FAILING.id or rule.remedy in LIFE
    assert rule.anchor == f"docs/alerts.md#{rule.id}"


def test_every_rule_is_in_one_list_and_symptoms_are_of_nodes():
    assert not set(causes.RULES) & set(catalogue.RULES)
    assert {catalogue.RULES[name].scope.value for name in grouping.SYMPTOMS} == {"node"}
    assert told.rule_of("low-gas") is catalogue.LOW_GAS
    assert told.rule_of("of another version") is None
    assert told.clears_after("rollback_failed") is None


def test_every_key_of_the_json_is_documented():
    (alert,) = alerts_json([an_alert()], now=NOW, simulated=False)["alerts"]
    part = PAGE.partition("### As JSON")[2].partition("\n## ")[0]
    assert all(f"`{key}`" in part for key in alert)
