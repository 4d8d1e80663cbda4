import os

import pytest

from orcha_pipeline.errors import AllocationError
from orcha_pipeline.protocols.config_files import read_config, replace_config


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_bytes(b"old\r\n")
    file.chmod(0o604)
    replace_config("n", file, "new\r\n")
    assert file.read_bytes() == b"new\r\n"
    assert file.stat().st_mode & 0o7777 == 0o604
    assert read_config("n", file) == "new\r\n"


def test_behind_a_link_the_file_changes_and_the_link_stays(tmp_path):
    file, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    file.write_text("old")
    link.symlink_to(file)
    replace_config("n", link, "new")
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_what_fails_midway_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "c.yaml"
    file.write_text("old")

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AllocationError, match="No space left on device"):
        replace_config("n", file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(AllocationError, match=r"cannot read .*none\.yaml: No such file"):
        read_config("n", tmp_path / "none.yaml")
    with pytest.raises(AllocationError, match="cannot write"):
        replace_config("n", tmp_path / "none.yaml", "x")
    (tmp_path / "b").write_bytes(b"\xff")
    with pytest.raises(AllocationError, match="not UTF-8"):
        read_config("n", tmp_path / "b")
