"""Which keys of Secrets a pod template reads, and when its pods have to be replaced."""

import base64
import json
from typing import Any

import pytest
from bem_fleet.services.orchestrator import secret_uses

ENV = {"env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "gateway"}}}]}
ITEMS = {"secret": {"secretName": "redis", "items": [{"key": "gateway", "path": "x"}]}}
WHOLE = {"secret": {"secretName": "redis"}}


def data(**texts: str) -> dict[str, str]:
    """Return the data of a Secret."""
    return {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}


def template(container: dict[str, Any] | None = None, *volumes: dict[str, Any]) -> dict[str, Any]:
    """Return a pod template with one container and volumes."""
    return {"spec": {"containers": [{"name": "c", **(container or {})}], "volumes": [*volumes]}}


def workload(pods: dict[str, Any], known: Any = None, checksum: str = "") -> dict[str, Any]:
    """Return a Deployment that has recorded ``known``."""
    noted = {"annotations": {secret_uses.KNOWN: json.dumps(known)}} if known is not None else {}
    marked = {"metadata": {"annotations": {"checksum/redis": checksum}}} if checksum else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "n", "uid": "u", **noted},
        "spec": {"template": {**pods, **marked}},
    }


@pytest.mark.parametrize(
    ("pods", "keys"),
    [
        (template(ENV), {"gateway"}),
        (template({"envFrom": [{"secretRef": {"name": "redis"}}]}), {"gateway", "witness"}),
        (template({}, ITEMS), {"gateway"}),
        (template({}, WHOLE), {"gateway", "witness"}),
        (
            template({}, {"projected": {"sources": [{"secret": {"name": "redis"}}]}}),
            {"gateway", "witness"},
        ),
        ({"spec": {**template()["spec"], "initContainers": [ENV]}}, {"gateway"}),
        (template({"env": [{"name": "P", "value": "redis"}]}, {"emptyDir": {}}), set()),
        (template({"envFrom": [{"configMapRef": {"name": "redis"}}]}), set()),
        (template({}, {"secret": {"secretName": "other"}}), set()),
        (template({}, {"secret": {"secretName": "redis", "items": [{"key": "gone"}]}}), set()),
    ],
)
def test_every_way_to_read_a_secret_is_found(pods: dict[str, Any], keys: set[str]) -> None:
    """Variables, imports, volumes and projections, of init containers too; nothing else."""
    assert secret_uses.used_keys(pods, "redis", {"gateway", "witness"}) == keys


def test_digests_tell_the_keys_apart() -> None:
    """A digest depends on value and key and does not contain the value."""
    found = secret_uses.digests(template({}, WHOLE), {"redis": data(a="word", b="word", c="other")})
    again = secret_uses.digests(template({}, WHOLE), {"redis": data(a="word")})

    assert set(found) == {"redis/a", "redis/b", "redis/c"}
    assert len(set(found.values())) == 3
    assert found["redis/a"] == again["redis/a"]
    assert len(found["redis/a"]) == 16


def test_only_a_changed_key_that_is_read_replaces_pods() -> None:
    """The first record, a new key and a key of somebody else replace none."""
    pods = template(ENV)
    first = secret_uses.current(workload(pods), {"redis": data(gateway="1", witness="1")})
    other = secret_uses.current(workload(pods, first), {"redis": data(gateway="1", witness="2")})
    own = secret_uses.current(workload(pods, first), {"redis": data(gateway="2", witness="1")})
    more = secret_uses.current(
        workload(template({}, WHOLE), first), {"redis": data(gateway="1", b="1")}
    )

    assert secret_uses.changed_keys(None, first) == []
    assert other == first
    assert secret_uses.changed_keys(first, own) == ["redis/gateway"]
    assert secret_uses.changed_keys(first, more) == []


def test_what_helm_has_restarted_is_not_restarted_again() -> None:
    """With another checksum in its template a workload has new pods already."""
    pods = template(ENV)
    before = secret_uses.current(workload(pods, checksum="a"), {"redis": data(gateway="1")})
    after = secret_uses.current(workload(pods, checksum="b"), {"redis": data(gateway="2")})

    assert secret_uses.changed_keys(before, after) == []
    assert after["checksum"] == "b"


def test_a_secret_that_is_away_keeps_its_record() -> None:
    """Made again with the same content it replaces no pods; with another content it does."""
    pods = template(ENV)
    first = secret_uses.current(workload(pods), {"redis": data(gateway="1")})
    away = secret_uses.current(workload(pods, first), {})
    back = secret_uses.current(workload(pods, away), {"redis": data(gateway="2")})

    assert away == first
    assert secret_uses.changed_keys(away, back) == ["redis/gateway"]


def test_a_workload_without_the_secrets_has_no_record() -> None:
    """Nothing is written to it."""
    assert secret_uses.current(workload(template()), {"redis": data(gateway="1")}) == {}


@pytest.mark.parametrize("text", ["[]", "{", '"x"'])
def test_an_unreadable_record_counts_as_none(text: str) -> None:
    """It is written anew and replaces no pods."""
    broken = workload(template(ENV))
    broken["metadata"]["annotations"] = {secret_uses.KNOWN: text}

    assert secret_uses.recorded(broken) is None


def test_a_record_keeps_the_mark_of_the_last_restart() -> None:
    """An apply that left the pods' annotation out would remove it, which replaces them again."""
    one = workload(template(ENV))
    plain = secret_uses.record_patch(one, {"a": "1"}, restart=False)
    one["spec"]["template"]["metadata"] = {"annotations": {secret_uses.RESTARTED: "old"}}
    kept = secret_uses.record_patch(one, {"a": "1"}, restart=False)
    renewed = secret_uses.record_patch(one, {"a": "1"}, restart=True)

    marks = [p["spec"]["template"]["metadata"]["annotations"] for p in (kept, renewed)]
    assert "spec" not in plain
    assert plain["metadata"] == {
        "name": "d",
        "namespace": "n",
        "uid": "u",
        "annotations": {secret_uses.KNOWN: '{"a": "1"}'},
    }
    assert marks == [{secret_uses.RESTARTED: "old"}, {secret_uses.RESTARTED: '{"a": "1"}'}]
