"""Scorer child process without models, for tests of the sidecar's modules."""

import sys
from pathlib import Path

import pytest

STUB = """
import json, sys, time
print(json.dumps({"scorers": ["toxicity"]}), flush=True)
for line in sys.stdin:
    findings = []
    for query in json.loads(line):
        if query["text"] == "crash":
            sys.exit(3)
        if query["text"] == "hang":
            time.sleep(60)
        if query["text"].startswith("slow"):
            time.sleep(0.2)
        if query["text"] == "garbage":
            print("[]", flush=True)
        score = 1.0 if "bad" in query["text"] else 0.0
        findings.append({"scores": {"toxicity": score}, "spans": []})
    print(json.dumps(findings), flush=True)
"""


@pytest.fixture
def stub_command(tmp_path: Path) -> tuple[str, ...]:
    """Command of a scorer that gives 1.0 to texts with "bad", and fails on request."""
    script = tmp_path / "stub_scorer.py"
    script.write_text(STUB)
    return (sys.executable, str(script))
