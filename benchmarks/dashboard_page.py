"""Rendering time of the dashboard page in Chromium: ``python -m benchmarks.dashboard_page``.

Loads the page of the running fleet with an empty cache, and again with a warm one. The first paint
is the browser's own figure (first contentful paint); the fleet is shown when the mission grid has
its first cell, which needs the first event of the stream.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from bem_fleet.cli.local.plan import Plan
from playwright.sync_api import Browser, BrowserContext

from tests.support.browser import chromium

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results"
LOADS = 10
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1440, "height": 900}
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
_SENT = """['resource', 'navigation'].flatMap((kind) => performance.getEntriesByType(kind))
  .reduce((sum, one) => sum + one.encodedBodySize, 0)"""


def load(context: BrowserContext, address: str) -> dict[str, float]:
    """Load the page once; return times in milliseconds from the request, and bytes."""
    page = context.new_page()
    try:
        page.goto(address)
        page.wait_for_selector(".mission-cell", timeout=30_000)
        shown = page.evaluate("performance.now()")
        page.wait_for_function(f"({_PAINT}) !== null")
        return {
            "first_paint": page.evaluate(_PAINT),
            "fleet_shown": shown,
            "bytes": page.evaluate(_SENT),
        }
    finally:
        page.close()


def measure(browser: Browser, address: str, viewport: Any) -> dict[str, Any]:
    """Return the times of loads with an empty cache, each in a new context, and with a warm one."""
    cold = []
    for _ in range(LOADS):
        context = browser.new_context(viewport=viewport)
        cold.append(load(context, address))
        context.close()
    context = browser.new_context(viewport=viewport)
    load(context, address)
    warm = [load(context, address) for _ in range(LOADS)]
    context.close()
    return {
        f"{name}_{figure}_ms": {
            "median": round(statistics.median(one[figure] for one in loads), 1),
            "largest": round(max(one[figure] for one in loads), 1),
        }
        for name, loads in (("cold", cold), ("warm", warm))
        for figure in ("first_paint", "fleet_shown")
    } | {"kilobytes": round(cold[0]["bytes"] / 1000)}


def main() -> None:
    """Measure on a desktop's and on a phone's screen."""
    address = f"http://{Plan().address('gateway')}"
    with chromium() as browser:
        report: dict[str, Any] = {
            "loads": LOADS,
            "browser": f"Chromium {browser.version}",
            "desktop": measure(browser, address, DESKTOP),
            "phone": measure(browser, address, PHONE),
            "command": "python -m benchmarks.dashboard_page",
        }
    (OUT / "bench_page.json").write_text(json.dumps(report, indent=1) + "\n")
    rows = [
        f"| {screen} | {figure} | {value['median']} | {value['largest']} |"
        for screen in ("desktop", "phone")
        for figure, value in report[screen].items()
        if isinstance(value, dict)
    ]
    head = (
        f"# The dashboard page\n\n{LOADS} loads each on loopback, {report['browser']}, "
        f"{report['desktop']['kilobytes']} kB sent.\n\n"
        "| screen | figure | median, ms | largest, ms |\n| --- | --- | --- | --- |\n"
    )
    text = head + "\n".join(rows) + f"\n\n`{report['command']}`\n"
    (OUT / "bench_page.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
