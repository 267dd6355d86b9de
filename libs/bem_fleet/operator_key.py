"""File of the operator's key: in the run folder, or where a variable says.

Commands send the key to services and sign evaluation reports with it.
"""

import os
from pathlib import Path

from bem_fleet.checkout import ROOT

VARIABLE = "FLEETCTL_KEY_FILE"
"""Environment variable with the path of the key's file."""


def operator_key_file() -> Path:
    """Return the path of the file; it need not exist."""
    named = os.environ.get(VARIABLE)
    return (
        Path(named) if named else Path(os.environ.get("RUN_DIR") or ROOT / ".run") / "operator.key"
    )
