"""Restarts of pods whose Secrets have changed, as Stakater's Reloader does them.

Passwords of Redis and the keys of the audit chain are read when a process starts. Helm sees only
that its values change; a Secret that kubectl or the External Secrets Operator rotates would leave
pods with passwords that Redis refuses. The leader watches the Secrets by name and replaces the pods
that read a changed key. The order is Redis, witness, all other services, and the orchestrator
itself last, each StatefulSet ready before what depends on it.

Example: somebody patches ``bem-fleet-redis``. After ``secret_settle_s`` without a further change
one pass applies the annotation to the StatefulSet ``bem-fleet-redis`` and records an Event. The
next passes wait until its pod is ready, then restart the others. What has been done is in the
workloads' annotations (``secret_uses``), so that a new leader continues.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from bem_fleet.services.orchestrator import events, secret_uses
from bem_fleet.services.orchestrator.kube.api import (
    KubeApi,
    KubeError,
    Object,
    ObjectNotFoundError,
)
from bem_fleet.services.orchestrator.kube.informer import Informer
from bem_fleet.services.orchestrator.mission import MISSION_LABEL
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bem_fleet.services.orchestrator.workloads import deployment_path, is_complete
from fleet import logs

_LOG = logs.get("orchestrator.secret_restarts")
# Own field manager: an apply of the placement would give the annotations up again.
_MANAGER = "bem-secret-restarts"
_PASS_S = 1.0
# A StatefulSet that does not become ready must not keep the others from their new passwords.
_READY_WITHIN_S = 180.0


class SecretRestarts:
    """Restarts what reads a changed Secret.

    Args:
        api: Connection to the API server.
        settings: Names of the Secrets and StatefulSets, and the intervals.
    """

    def __init__(self, api: KubeApi, settings: OrchestratorSettings) -> None:
        self._api, self._settings = api, settings
        self._changed = asyncio.Event()
        self._changed_at = float("-inf")
        self._waiting_since: dict[str, float] = {}
        self.informers: list[Informer[Object]] = [
            Informer(
                api,
                f"/api/v1/namespaces/{settings.namespace}/secrets",
                _kept_of_secret,
                self._on_change,
                name=name,
                optional=True,
            )
            for name in settings.restart_secrets
        ]

    async def run(self, leads: Callable[[], bool]) -> None:
        """Restart after each change of a Secret while this replica leads, until cancelled."""
        if not self.informers:
            return
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.secret_interval_s):
                    await self._changed.wait()
            self._changed.clear()
            done = False
            while leads() and not done:
                await self._settle()
                done = await self._safely()
                await asyncio.sleep(0 if done else _PASS_S)

    async def restart_outdated(self) -> bool:
        """Make one pass; returns whether nothing is left to do.

        A failed write is logged and repeated at the next interval, as it may be refused for good.

        Raises:
            KubeError: The workloads cannot be read.
        """
        secrets = {
            one["name"]: one["data"] for informer in self.informers for one in list(informer)
        }
        groups = [await self._list_group(place) for place in range(self._groups)]
        outdated = [[one for one in group if self._is_outdated(one, secrets)] for group in groups]
        for place, group in enumerate(groups):
            for workload in group:
                try:
                    await self._bring_up_to_date(workload, secrets)
                except KubeError as err:
                    name = workload["metadata"]["name"]
                    _LOG.warning("not restarted", workload=name, reason=str(err)[:300])
            # Deployments do not wait for each other: a mission may take minutes to be ready.
            is_awaited = place < len(self._settings.restart_stateful_sets)
            if (
                is_awaited
                and any(outdated[place + 1 :])
                and not self._is_ready(group, outdated[place])
            ):
                return False
        return True

    async def _settle(self) -> None:
        """Wait until no Secret has changed for a while: tools write several, one by one."""
        settle_s = self._settings.secret_settle_s
        while (left := self._changed_at + settle_s - time.monotonic()) > 0:  # noqa: ASYNC110 - time
            await asyncio.sleep(left)

    async def _safely(self) -> bool:
        """Make one pass; a failed one is logged, and repeated at the next interval."""
        try:
            return await self.restart_outdated()
        except KubeError as err:
            _LOG.warning("secrets not compared", reason=str(err)[:300])
            return True

    @property
    def _groups(self) -> int:
        return len(self._settings.restart_stateful_sets) + 2

    async def _list_group(self, place: int) -> list[Object]:
        """Return the workloads of one place in the order; the last is the orchestrator's own."""
        namespace, names = self._settings.namespace, self._settings.restart_stateful_sets
        if place < len(names):
            path = f"/apis/apps/v1/namespaces/{namespace}/statefulsets/{names[place]}"
            found = await self._get(path)
            return [_typed(one, "StatefulSet") for one in found]
        own = self._settings.deployment
        if place > len(names):
            found = await self._get(deployment_path(namespace, own)) if own else []
        else:
            listed, _ = await self._api.list(deployment_path(namespace, "").rstrip("/"))
            found = [one for one in listed if _is_ours(one) and one["metadata"]["name"] != own]
        return [_typed(one, "Deployment") for one in found]

    async def _get(self, path: str) -> list[Object]:
        try:
            return [await self._api.get(path)]
        except ObjectNotFoundError:
            return []

    def _is_outdated(self, workload: Object, secrets: dict[str, dict[str, str]]) -> bool:
        now = secret_uses.current(workload, secrets)
        return bool(secret_uses.changed_keys(secret_uses.recorded(workload), now))

    async def _bring_up_to_date(self, workload: Object, secrets: dict[str, dict[str, str]]) -> None:
        """Record what a workload reads, and replace its pods if that has changed."""
        now, before = secret_uses.current(workload, secrets), secret_uses.recorded(workload)
        if "deletionTimestamp" in workload["metadata"] or now == (before or {}):
            return
        changed = secret_uses.changed_keys(before, now)
        patch = secret_uses.record_patch(workload, now, restart=bool(changed))
        path = _path(workload)
        await self._api.patch(path, patch, "apply", fieldManager=_MANAGER)
        if changed:
            note = f"the keys {', '.join(changed)} of Secrets have changed; pods are replaced"
            _LOG.info("restarted", workload=workload["metadata"]["name"], keys=changed)
            await events.record_of(self._api, workload, "SecretChanged", note)

    def _is_ready(self, group: Sequence[Object], restarted: Sequence[Object]) -> bool:
        """Return whether what is restarted next may rely on a group, or has waited long enough."""
        ready = not restarted and all(is_complete(one) for one in group)
        names = " ".join(one["metadata"]["name"] for one in group)
        if ready:
            self._waiting_since.pop(names, None)
            return True
        since = self._waiting_since.setdefault(names, time.monotonic())
        return time.monotonic() - since > _READY_WITHIN_S

    def _on_change(self) -> None:
        self._changed_at = time.monotonic()
        self._changed.set()


def _kept_of_secret(secret: Object) -> Object:
    """Return name and data alone: other changes of a Secret restart nothing."""
    return {"name": secret["metadata"]["name"], "data": secret.get("data") or {}}


def _is_ours(deployment: Object) -> bool:
    """Return whether a Deployment is of the chart or of a mission; others are left alone."""
    labels = deployment["metadata"].get("labels") or {}
    return labels.get("app.kubernetes.io/part-of") == "bem-fleet" or MISSION_LABEL in labels


def _typed(workload: Object, kind: str) -> Object:
    """Return a workload with the type that lists leave out."""
    return {**workload, "apiVersion": "apps/v1", "kind": kind}


def _path(workload: Object) -> str:
    metadata = workload["metadata"]
    plural = f"{workload['kind'].lower()}s"
    return f"/apis/apps/v1/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"
