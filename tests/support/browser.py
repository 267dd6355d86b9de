"""Chromium under Playwright, and axe-core in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.requirements import require

# The suites run as root in containers, where Chromium's own sandbox cannot start.
_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the system's Chromium; a missing one is a skip, and a failure under CI."""
    executable = require("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_ARGUMENTS)
        yield browser
        browser.close()


def accessibility_problems(page: Page) -> list[str]:
    """Return axe-core's violations of WCAG and of good practice on a page."""
    # The page's policy forbids scripts that it does not serve; the test's own one bypasses it.
    found: dict[str, Any] = Axe().run(page).response
    return [
        f"{one['id']}: {one['help']}: {node['html'][:160]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
