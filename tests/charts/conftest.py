"""Helm of the chart tests: without it they are skipped on a developer's machine and fail in CI."""

import os

import pytest

from tests.charts import rendering


@pytest.fixture(scope="session", autouse=True)
def _helm() -> None:
    """Skip the tests without helm; in CI fail them."""
    if rendering.helm() is None:
        reason = "helm is missing; `make charts` fetches it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
