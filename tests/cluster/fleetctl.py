"""``fleetctl`` with ``--context``, as a person runs it from outside the cluster."""

import json
import subprocess
import sys
from typing import Any

from tests.cluster.kubernetes_cli import ROOT, Release, environment, run

_PROGRAM = "import sys; from bem_fleet.cli import main; sys.exit(main())"
_TIMEOUT_S = 300


def fleetctl(release: Release, *words: str, context: str = "") -> tuple[int, Any, str]:
    """Run a command against the release; returns its exit code, its JSON and its errors.

    Key, certificate and cluster are those of the options: variables of this shell do not count.
    """
    context = context or run("kubectl", "config", "current-context").strip()
    where = ("--context", context, "--namespace", release.namespace, "--release", release.name)
    kept = {name: one for name, one in environment().items() if not name.startswith("FLEETCTL_")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words, *where, "--json"],
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    return done.returncode, json.loads(done.stdout or "null"), done.stderr
