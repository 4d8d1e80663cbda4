import pytest

from orcha_pipeline_tests.anomalies.alerts.servers import mail_server, webhook


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def mailbox():
    with mail_server() as found:
        yield found


@pytest.fixture
def hook():
    with webhook() as found:
        yield found
