"""What ``helm uninstall`` runs first: missions go while an orchestrator can hand back for them."""

import os
import sys
import time
from typing import Any

from kubernetes import client, config

_GROUP, _VERSION, _PLURAL = "fleet.bem.dev", "v1alpha1", "missions"


def main() -> int:
    """Delete the release's missions and return 0 once they are gone.

    Where no orchestrator answers within ``LIMIT_S`` seconds their finalizers are taken off: what
    they had goes with the release anyhow.
    """
    of_the_pod: Any = config.load_incluster_config  # the client has no types
    of_the_pod()
    missions: Any = client.CustomObjectsApi()
    where = (_GROUP, _VERSION, os.environ["NAMESPACE"], _PLURAL)

    def names() -> list[str]:
        found = missions.list_namespaced_custom_object(
            *where, label_selector=os.environ["SELECTOR"]
        )
        return [each["metadata"]["name"] for each in found["items"]]

    for name in names():
        missions.delete_namespaced_custom_object(*where, name)
    limit = time.monotonic() + float(os.environ["LIMIT_S"])
    while (left := names()) and time.monotonic() < limit:
        time.sleep(0.5)
    for name in left:
        print(f"{name}: no orchestrator handed its GPUs back; let go as it is")
        missions.patch_namespaced_custom_object(*where, name, {"metadata": {"finalizers": None}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
