"""Settings of all tests."""

from hypothesis import settings

# A busy machine is no failure: no test here asserts how long an example takes.
settings.register_profile("orcha", deadline=None)
settings.load_profile("orcha")
