"""Chart tests need helm; a machine without it may skip them, CI may not."""

import os

import pytest

from tests.charts import rendering


@pytest.fixture(scope="session", autouse=True)
def _helm() -> None:
    """Skip where helm is missing, and never in CI."""
    if rendering.helm() is None:
        reason = "helm is missing; `make charts` fetches it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
