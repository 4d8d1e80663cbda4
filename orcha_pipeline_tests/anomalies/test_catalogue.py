"""The list of rules, the page that tells of them, and the code that raises them."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from orcha_pipeline.anomalies import (
    catalogue,
    detect,
    rules_earnings,
    rules_host,
    rules_node,
    rules_orcha,
    rules_protocol,
    watched_series,
)
from orcha_pipeline.anomalies.alerts import causes
from orcha_pipeline.anomalies.anomaly import Severity
from orcha_pipeline.anomalies.catalogue import FREEZING, MASKING, RULES, Freeze
from orcha_pipeline.assets.forecast_errors import FORECAST_DRIFT
from orcha_pipeline.settings import Settings
from orcha_pipeline.warehouse.freezes import ROLLBACK_FAILED

PAGE = Path(__file__).parents[2] / "docs" / "alerts.md"
RAISING = (rules_earnings, rules_host, rules_node, rules_orcha, rules_protocol, watched_series, detect)


def sections() -> dict[str, str]:
    """Heading -> text, of the part of the page about rules."""
    text = PAGE.read_text(encoding="utf-8").partition("\n## Rules\n")[2].partition("\n## ")[0]
    return {part.partition("\n")[0].strip(): part for part in text.split("\n### ")[1:]}


def test_the_page_has_a_section_for_each_rule_and_for_nothing_else():
    assert list(sections()) == list(RULES)
    assert all(rule.anchor == f"docs/alerts.md#{name}" for name, rule in RULES.items())


def test_the_page_has_a_place_for_each_rule_of_the_alerts_themselves():
    places = re.findall(r'<a id="(\S+)"></a>', PAGE.read_text(encoding="utf-8"))
    assert sorted(places) == sorted(causes.RULES)
    assert not set(causes.RULES) & set(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_the_page_tells_of_each_rule_what_the_list_says(rule):
    text = " ".join(sections()[rule.id].split())
    assert f"Remedy: {rule.remedy}" in text
    assert {name for name in Severity if f"`{name}`" in text.partition("Severity: ")[2].partition(". Setting")[0]} == (
        rule.severities
    )
    for key in rule.settings:
        table, name = key.split(".")
        default = getattr(getattr(Settings(), table), name)
        assert f"`{key}` ({default:g})" in text
    ends = "when whoever raised it says so" if rule.clears_after is None else f"{rule.clears_after} slots after"
    assert f"Ends {ends}" in text


def test_the_table_of_the_page_tells_what_follows():
    text = PAGE.read_text(encoding="utf-8")
    rows = {
        row[0]: row for row in re.findall(r"^\| \[(\S+)\]\(#\1\) \|.*?\|.*?\| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    }
    assert list(rows) == list(RULES)
    assert {name for name, row in rows.items() if row[2]} == MASKING
    assert {name for name, row in rows.items() if "this slot and the next" in row[1]} == FREEZING
    assert {name for name, row in rows.items() if row[1] == "goes on"} == {
        name for name, rule in RULES.items() if rule.freeze is Freeze.NO
    }


def test_every_setting_belongs_to_a_rule():
    told = {key for rule in RULES.values() for key in rule.settings}
    assert {f"anomalies.{name}" for name in type(Settings().anomalies).model_fields} <= told


def test_a_remedy_is_one_sentence_for_people():
    for rule in (*RULES.values(), *causes.RULES.values()):
        assert rule.remedy.endswith(".")
        assert rule.remedy[0].isupper()
        assert rule.says[0].islower()


def test_everything_that_is_raised_is_on_the_list_and_all_of_the_list_is_raised():
    """Rules are raised by their names of the catalogue alone: no text of a rule's stands anywhere else."""
    named: set[str] = set()
    for module in RAISING:
        tree = ast.parse(inspect.getsource(module))
        named |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & set(RULES), module
    constants = {name: rule.id for name, rule in vars(catalogue).items() if isinstance(rule, catalogue.Rule)}
    elsewhere = {FORECAST_DRIFT, ROLLBACK_FAILED}
    assert {rule for name, rule in constants.items() if name in named} == set(RULES) - elsewhere
