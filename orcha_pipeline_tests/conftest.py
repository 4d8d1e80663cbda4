"""Settings of all tests, and the command as a person runs it."""

import os
import signal
import sys

import pytest
from hypothesis import settings

# A busy machine is no failure: no test here asserts how long an example takes.
settings.register_profile("orcha", deadline=None)
settings.load_profile("orcha")
# A shell that starts tests in the background has them ignore SIGINT, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Where tests run in several processes these have a width of their own, and Rich would keep to it.
for size in ("COLUMNS", "LINES"):
    os.environ.pop(size, None)


@pytest.fixture
def orcha(tmp_path, monkeypatch, capfd):
    """Runs the command in an empty folder; gives exit code, output and error output with their lines joined."""
    from orcha_pipeline import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHA_CONFIG", raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["orcha", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return ended.value.code or 0, out, err

    return run
