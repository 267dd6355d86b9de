"""A canary of an adapter on one machine, with the real model and without a cluster."""

from __future__ import annotations

import re
import time
from pathlib import Path

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


def said(fleet: Fleet, *words: str) -> int:
    """Run ``fleetctl canary``; returns its exit status."""
    return main(["canary", "--address", fleet.orchestrator, *words])


def phase(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Return phase and reason as a person reads them."""
    capsys.readouterr()
    assert said(fleet, "status", "router") == 0
    shown = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in _lines(capsys.readouterr().out))
    return shown["phase"], shown["because"]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if "  " in line]


def test_a_worse_adapter_rolls_itself_back(
    fleet: Fleet, client: openai.OpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base in the adapter's place answers worse; the adapter answers all who ask afterwards."""
    file = tmp_path / "canary.yaml"
    steps = [{"weight": 50, "seconds": 600}]
    file.write_text(yaml.safe_dump({"model": BASE, "steps": steps, "analysis": ANALYSIS}))
    started = said(fleet, "start", "router", "--spec", str(file))
    limit = time.monotonic() + 240
    while (found := phase(fleet, capsys))[0] != "RolledBack":
        assert time.monotonic() < limit, found
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
    assert found[1] == "quality is worse"
