"""Settings of all tests."""

import signal

from hypothesis import settings

# A busy machine is no failure: no test here asserts how long an example takes.
settings.register_profile("orcha", deadline=None)
settings.load_profile("orcha")
# A shell that starts tests in the background has them ignore SIGINT, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
