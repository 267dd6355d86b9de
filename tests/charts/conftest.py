"""Chart tests need helm: without it they skip on a desk and fail under CI."""

import pytest

from tests.support.requirements import require


@pytest.fixture(scope="session", autouse=True)
def _helm() -> None:
    """Require helm."""
    require("helm")
