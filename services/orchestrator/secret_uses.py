"""Keys of Secrets that a pod template reads, and what a workload records about them.

A container's environment never changes, and a password file is read at the start only, so pods
have to start again when such a Secret changes. Each workload records a digest of every key that its
pods read, in an annotation of its own metadata, which restarts nothing:

    fleet.bem.dev/known-secrets: {"checksum": "made", "bem-fleet-redis/gateway": "5f2a…"}

If a recorded digest differs from the Secret's, the digests are also written into the pod template
(``fleet.bem.dev/secrets``), and the pods are replaced. A key without a record is recorded only: its
pods have started with it.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

from bem_fleet.services.orchestrator.mission import GROUP

KNOWN = f"{GROUP}/known-secrets"
RESTARTED = f"{GROUP}/secrets"
# The chart's own: where it has changed with the Secret, helm has replaced the pods already.
_CHART_CHECKSUM = "checksum/redis"
_CHECKSUM = "checksum"
_DIGEST_BYTES = 8
Object = dict[str, Any]


def used_keys(template: Mapping[str, Any], name: str, keys: Collection[str]) -> set[str]:
    """Return the keys of a Secret that the pods of a template read.

    Args:
        template: Pod template.
        name: Name of the Secret.
        keys: Keys that the Secret has; a whole Secret that is mounted or imported reads them all.
    """
    found: set[str] = set()
    for reference, key in _references(template["spec"]):
        if reference == name:
            found |= {key} if key else set(keys)
    return found & set(keys)


def digests(
    template: Mapping[str, Any], secrets: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Return a digest of each key that the pods of a template read, by ``<secret>/<key>``.

    Args:
        template: Pod template.
        secrets: Data of each Secret by its name, in base64.
    """
    return {
        f"{name}/{key}": _digest(name, key, data[key])
        for name, data in sorted(secrets.items())
        for key in sorted(used_keys(template, name, data))
    }


def recorded(workload: Object) -> dict[str, str] | None:
    """Return what a workload has recorded; None before the first record or if it is unreadable."""
    text = (workload["metadata"].get("annotations") or {}).get(KNOWN)
    try:
        found = json.loads(text) if text else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def current(workload: Object, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return what a workload would record now; a Secret that is missing keeps its record."""
    template = workload["spec"]["template"]
    now = digests(template, secrets)
    missing = {
        key: digest
        for key, digest in (recorded(workload) or {}).items()
        if key != _CHECKSUM and key.rpartition("/")[0] not in secrets
    }
    checksum = _template_annotations(workload).get(_CHART_CHECKSUM, "")
    return {_CHECKSUM: checksum, **missing, **now} if now or missing else {}


def changed_keys(before: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    """Return the keys, as ``<secret>/<key>``, for which the pods have to be replaced.

    Args:
        before: What the workload has recorded; None if nothing.
        now: What it would record now.
    """
    if before is None or before.get(_CHECKSUM, "") != now.get(_CHECKSUM, ""):
        return []
    return [key for key, digest in now.items() if before.get(key, digest) != digest]


def record_patch(workload: Object, now: Mapping[str, str], *, restart: bool) -> Object:
    """Return an apply of the record, and of the pods' annotation where it is or becomes set.

    Args:
        workload: Deployment or StatefulSet with ``apiVersion`` and ``kind``.
        now: What it records.
        restart: Whether the pods are to be replaced.
    """
    metadata, text = workload["metadata"], json.dumps(now, sort_keys=True)
    mark = text if restart else _template_annotations(workload).get(RESTARTED)
    template: Object = {"metadata": {"annotations": {RESTARTED: mark}}} if mark else {}
    return {
        "apiVersion": workload["apiVersion"],
        "kind": workload["kind"],
        # With the uid an apply to a workload that is gone creates none.
        "metadata": {
            **{key: metadata[key] for key in ("name", "namespace", "uid")},
            "annotations": {KNOWN: text},
        },
        **({"spec": {"template": template}} if template else {}),
    }


def _template_annotations(workload: Object) -> dict[str, str]:
    metadata = workload["spec"]["template"].get("metadata") or {}
    found: dict[str, str] = metadata.get("annotations") or {}
    return found


def _references(pod: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and key of each reference to a Secret; an empty key stands for all."""
    for container in (*(pod.get("initContainers") or ()), *pod["containers"]):
        for variable in container.get("env") or ():
            if source := (variable.get("valueFrom") or {}).get("secretKeyRef"):
                yield source["name"], source["key"]
        for source in container.get("envFrom") or ():
            if reference := source.get("secretRef"):
                yield reference["name"], ""
    for volume in pod.get("volumes") or ():
        if secret := volume.get("secret"):
            yield from _mounted(secret, "secretName")
        for source in (volume.get("projected") or {}).get("sources") or ():
            if secret := source.get("secret"):
                yield from _mounted(secret, "name")


def _mounted(secret: Mapping[str, Any], field: str) -> Iterator[tuple[str, str]]:
    for item in secret.get("items") or ({"key": ""},):
        yield secret[field], item["key"]


@lru_cache(maxsize=1024)
def _digest(name: str, key: str, value: str) -> str:
    """Return a digest that is slow to compute, so that nobody finds a weak password by trials."""
    salt = f"{name}/{key}".encode()
    raw = hashlib.scrypt(base64.b64decode(value), salt=salt, n=4096, r=8, p=1, dklen=_DIGEST_BYTES)
    return raw.hex()
