"""Helm pre-delete hook: deletes the release's missions while an orchestrator can release GPUs."""

import os
import sys
import time
from typing import Any

from kubernetes import client, config

_GROUP, _VERSION, _PLURAL = "fleet.bem.dev", "v1alpha1", "missions"


def main() -> int:
    """Delete the release's missions and return 0 once they are gone.

    If no orchestrator finalizes them within ``LIMIT_S`` seconds, their finalizers are removed: the
    Deployments that they were assigned GPUs for are deleted with the release anyway.
    """
    load_config: Any = config.load_incluster_config  # the client has no types
    load_config()
    missions: Any = client.CustomObjectsApi()
    collection = (_GROUP, _VERSION, os.environ["NAMESPACE"], _PLURAL)

    def names() -> list[str]:
        listed = missions.list_namespaced_custom_object(
            *collection, label_selector=os.environ["SELECTOR"]
        )
        return [mission["metadata"]["name"] for mission in listed["items"]]

    for name in names():
        missions.delete_namespaced_custom_object(*collection, name)
    deadline = time.monotonic() + float(os.environ["LIMIT_S"])
    while (remaining := names()) and time.monotonic() < deadline:
        time.sleep(0.5)
    for name in remaining:
        print(f"{name}: no orchestrator released its GPUs in time; removing the finalizer")
        body = {"metadata": {"finalizers": None}}
        missions.patch_namespaced_custom_object(*collection, name, body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
