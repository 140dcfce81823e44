"""What unit tests of the memory backend share: a clock that stands still."""

import pytest

from broker.backends.memory import ManualClock


@pytest.fixture
async def clock():
    return ManualClock()
