"""The service's image stays small."""

import subprocess
import sys


def test_service_loads_without_a_model_library() -> None:
    """Importing the whole service and fleetctl brings in no torch."""
    code = (
        "import sys, bem_fleet.services.validation.build, bem_fleet.cli; "
        "print({'torch', 'transformers', 'safetensors', 'sklearn'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    assert printed.strip() == "set()"
