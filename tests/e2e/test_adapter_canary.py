"""Adapter canary on one machine, with the packaged base model and without a cluster."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from unittest import mock

import openai
import pytest
import yaml
from bem_fleet.cli import main

from tests.cluster.canary_adapters import CAPITALS, capital_prompt
from tests.e2e.conftest import Fleet

pytestmark = [pytest.mark.stage("canary"), pytest.mark.e2e, pytest.mark.slow]
ADAPTER, BASE = "passage-qa", "smollm2-135m-instruct"
ANALYSIS = {
    "probes": [
        {"prompt": capital_prompt(country, city), "answers": [f'{{"answer": "{city}"}}', city]}
        for country, city in CAPITALS
    ],
}


def fleetctl_canary(fleet: Fleet, *words: str) -> int:
    """Run ``fleetctl canary`` and return its exit status."""
    with mock.patch.dict(os.environ, {"RUN_DIR": fleet.environment["RUN_DIR"]}):
        return main(["canary", "--address", fleet.orchestrator, *words])


def phase(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Return phase and reason as ``fleetctl canary status`` prints them."""
    capsys.readouterr()
    assert fleetctl_canary(fleet, "status", "router") == 0
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in _lines(capsys.readouterr().out))
    return rows["phase"], rows["reason"]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if "  " in line]


def test_worse_adapter_is_rolled_back(
    fleet: Fleet, client: openai.OpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base model in the adapter's place is rolled back; the adapter then serves everyone."""
    file = tmp_path / "canary.yaml"
    steps = [{"weight": 50, "seconds": 600}]
    file.write_text(yaml.safe_dump({"model": BASE, "steps": steps, "analysis": ANALYSIS}))
    started = fleetctl_canary(fleet, "start", "router", "--spec", str(file))
    limit = time.monotonic() + 240
    while (current := phase(fleet, capsys))[0] != "RolledBack":
        assert time.monotonic() < limit, current
        time.sleep(0.2)
    country, city = CAPITALS[0]
    for session in range(4):
        answer = client.chat.completions.create(
            model=ADAPTER,
            messages=[{"role": "user", "content": capital_prompt(country, city)}],
            temperature=0,
            max_tokens=24,
            user=f"session {session}",
        )
        assert answer.choices[0].message.content == f'{{"answer": "{city}"}}'

    assert started == 0
    assert current[1] == "quality is worse"
