"""Schemathesis against the gateway's OpenAPI page: a second opinion on its routes.

It lives in the environment of ``requirements/clients.lock`` and is run as a command.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass

_TIMEOUT_S = 3_600
_GENERATED = re.compile(r"(\d[\d,]*) generated")


@dataclass(frozen=True)
class SchemathesisResult:
    """Outcome of a run.

    Attributes:
        generated: Number of requests.
        passed: Whether no answer was a server error.
        output: What the command printed.
    """

    generated: int
    passed: bool
    output: str


def run_schemathesis(
    binary: str, url: str, *, key: str = "", max_examples: int = 100, seed: int = 0
) -> SchemathesisResult:
    """Run Schemathesis on all operations and return its outcome.

    Args:
        binary: Path of the command.
        url: Base URL of the gateway.
        key: API key; empty to send none.
        max_examples: Most requests for each operation and phase.
        seed: Seed of all requests.
    """
    command = [binary, "run", f"{url}/openapi.json", "--checks", "not_a_server_error"]
    # Its coverage phase exceeds Python 3.11's recursion limit on the schema of a conversation.
    command += ["--phases", "examples,fuzzing,stateful", "--max-examples", str(max_examples)]
    command += ["--seed", str(seed), "--request-timeout", "60"]
    if key:
        command += ["--header", f"Authorization: Bearer {key}"]
    with tempfile.TemporaryDirectory() as folder:  # it keeps a cache where it runs
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    output = done.stdout + done.stderr
    found = _GENERATED.search(output)
    generated = int(found[1].replace(",", "")) if found else 0
    return SchemathesisResult(generated, done.returncode == 0 and generated > 0, output)
