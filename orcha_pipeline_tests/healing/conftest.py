import pytest

from orcha_pipeline_tests.healing.build import Rig


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


@pytest.fixture
def fallen(rig):
    """A node of three is away for 45 minutes: the last cycle has asked for its restart."""
    rig.fall("a")
    assert [each.node for each in rig.play(4).chosen] == ["a"]
    return rig
