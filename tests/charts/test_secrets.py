"""Secrets of the chart: one password for each user of Redis, stable keys, and Redis's own start."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from bem_fleet.descriptors import load_descriptors
from bem_fleet.redis_users import redis_users
from fleet.embedded_redis import redis_binary
from fleet.testing import free_port

from tests.charts.rendering import VALUE_SETS, objects, render

USERS = redis_users(load_descriptors())
CPU = next(path for path in VALUE_SETS if path.name.startswith("cpu"))
EXTERNAL = next(path for path in VALUE_SETS if path.name.startswith("external"))


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A file without values."""
    path = tmp_path / "values.yaml"
    path.write_text("{}\n")
    return path


def named(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects of a rendering by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in objects(text)}


def templates(found: dict[tuple[str, str], dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and pod template of each workload."""
    for (kind, name), one in found.items():
        if kind in ("Deployment", "StatefulSet"):
            yield name, one["spec"]["template"]


def references(container: dict[str, Any]) -> set[tuple[str, str]]:
    """Return Secret and key of each environment variable that has one."""
    variables = (each.get("valueFrom", {}).get("secretKeyRef") for each in container["env"])
    return {(one["name"], one["key"]) for one in variables if one}


def test_renderings_from_one_seed_are_equal(empty: Path) -> None:
    """With a text of one's own `helm template` gives the same again; the text is not in it."""
    seeds = ("redis.auth.password=seed-of-passwords", "keys.seed=seed-of-keys", "tls.mode=off")
    first, other = render(empty, *seeds), render(empty, seeds[0] + "2", *seeds[1:])
    found, changed = named(first), named(other)
    secret = ("Secret", "bem-fleet-redis")

    assert render(empty, *seeds) == first
    assert "seed-of" not in first
    assert len(set(found[secret]["stringData"].values())) == len(USERS)
    assert found[secret] != changed[secret]
    assert dict(templates(found)) != dict(templates(changed))


def test_each_container_has_its_own_password_only() -> None:
    """A service is given its own user; one that states no access has neither login nor route."""
    found = named(render(CPU))
    logins = {
        container["name"]: {key for secret, key in references(container) if "redis" in secret}
        for _, pod in templates(found)
        for container in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"])
    }
    stated = {one.name for one in load_descriptors() if one.redis}
    ways = found["NetworkPolicy", "bem-fleet-redis"]["spec"]["ingress"][0]["from"]
    callers = {way["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for way in ways}

    assert logins["redis"] == {"probe"}
    for name in stated | {"witness"}:
        assert logins[name] == {name}
    for name in set(logins) - stated - {"redis", "witness"}:
        assert logins[name] == set()
    assert callers == {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for _, pod in templates(found)
        for container in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"])
        if any("redis" in secret for secret, _ in references(container))
    } - {"redis"}
    assert callers >= {"gateway", "router", "witness"}


def test_secrets_of_the_installations_own_are_used(empty: Path) -> None:
    """With existing Secrets the chart renders none, and the rendering is the same each time."""
    sets = (
        "redis.auth.existingSecret=my-redis",
        "keys.existingSecret=my-keys",
        "access.existingSecret=my-access",
        "tls.existingSecret=my-tls",
    )
    text = render(empty, *sets)
    found = named(text)
    used = {
        secret
        for _, pod in templates(found)
        for container in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"])
        for secret, _ in references(container)
    }
    mounted = {
        volume["secret"]["secretName"]
        for _, pod in templates(found)
        for volume in pod["spec"]["volumes"]
        if "secret" in volume
    }

    assert not [name for kind, name in found if kind == "Secret"]
    assert used == {"my-redis"}
    assert mounted == {"my-redis", "my-keys", "my-access", "my-tls"}
    assert render(empty, *sets) == text


def test_external_redis_may_have_users_too() -> None:
    """One URL for all, or one for each user of the rules' file."""
    shared, own = (
        named(render(EXTERNAL, f"redis.external.urlPerUser={value}")) for value in ("false", "true")
    )
    keys = [
        {
            key
            for _, pod in templates(found)
            for one in pod["spec"]["containers"]
            for _, key in references(one)
        }
        for found in (shared, own)
    ]

    services = {"gateway", "memory", "online", "orchestrator", "router", "validation", "witness"}
    assert keys == [{"url"}, services]


def test_keys_outlive_a_release_whose_data_does() -> None:
    """Audit records that are retained need their key."""
    annotations = [
        named(render(CPU, f"redis.persistence.whenDeleted={policy}"))["Secret", "bem-fleet-keys"][
            "metadata"
        ].get("annotations", {})
        for policy in ("Delete", "Retain")
    ]

    assert annotations == [{}, {"helm.sh/resource-policy": "keep"}]


class RenderedRedis:
    """Redis as its pod starts it, with the files of a rendering."""

    def __init__(self, folder: Path, found: dict[tuple[str, str], dict[str, Any]]) -> None:
        self.folder, self.port = folder, free_port()
        self.passwords: dict[str, str] = found["Secret", "bem-fleet-redis"]["stringData"]
        for name in ("data", "configuration", "passwords", "acl"):
            (folder / name).mkdir()
        for name, text in found["ConfigMap", "bem-fleet-redis"]["data"].items():
            moved = text.replace("dir /data", f"dir {folder}/data\nport {self.port}")
            (folder / "configuration" / name).write_text(moved)
        for user, password in self.passwords.items():
            (folder / "passwords" / user).write_text(password)

    def start(self) -> subprocess.Popen[str]:
        """Run the pod's command."""
        configuration = self.folder / "configuration"
        return subprocess.Popen(
            ["sh", str(configuration / "start.sh")],
            env={
                "PATH": f"{Path(redis_binary()).parent}{os.pathsep}{os.environ['PATH']}",
                "REDIS_RULES": str(configuration / "users"),
                "REDIS_PASSWORDS": str(self.folder / "passwords"),
                "REDIS_ACL": str(self.folder / "acl" / "users.acl"),
                "REDIS_CONFIG": str(configuration / "redis.conf"),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, user: str, *command: str) -> Any:
        """Run a command as a user, as soon as Redis listens."""
        login: dict[str, Any] = {"username": user, "password": self.passwords[user]}
        limit = time.monotonic() + 30
        while True:
            try:
                with redis.Redis(port=self.port, **login, decode_responses=True) as client:
                    return client.execute_command(*command)
            except redis.AuthenticationError:
                raise
            except redis.ConnectionError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.05)  # another program gives no event to wait for


def test_redis_starts_with_the_rendered_users(tmp_path: Path) -> None:
    """By the pod's script each user may do its own work and no other; files are private."""
    made = RenderedRedis(tmp_path, named(render(CPU)))
    process = made.start()
    try:
        assert made.call("probe", "PING") is True
        assert made.call("gateway", "XADD", "bem:feedback", "1-0", "f", "x") == "1-0"
        with pytest.raises(redis.ResponseError, match=r"(?i)permission"):
            made.call("gateway", "XADD", "bem:audit", "*", "f", "x")
        assert made.call("admin", "CONFIG", "GET", "appendfsync")["appendfsync"] == "always"
        assert set(made.call("admin", "ACL", "USERS")) == {*USERS, "default"}
        with pytest.raises(redis.AuthenticationError), redis.Redis(port=made.port) as client:
            client.ping()
        written = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        assert written
        assert not [path for path in written if path.stat().st_mode & 0o077]
    finally:
        process.kill()
        process.communicate()


def test_missing_password_stops_redis_with_its_name(tmp_path: Path) -> None:
    """A Secret without a user's key is named in the log of the pod."""
    made = RenderedRedis(tmp_path, named(render(CPU)))
    (tmp_path / "passwords" / "witness").unlink()
    _, error = made.start().communicate(timeout=30)

    assert "has no password in the key 'witness'" in error


@pytest.mark.parametrize("password", ["a/b", "a?b", "50%", "a b", "word\n", "ä"])
def test_password_that_a_url_cannot_carry_is_refused(tmp_path: Path, password: str) -> None:
    """Redis would take it, and every client would be refused with WRONGPASS."""
    made = RenderedRedis(tmp_path, named(render(CPU)))
    (tmp_path / "passwords" / "gateway").write_text(password)
    _, error = made.start().communicate(timeout=30)

    assert "the password in the key 'gateway' has a character that a URL cannot carry" in error


def test_password_of_other_tools_is_read_from_a_url(tmp_path: Path) -> None:
    """Base64 without slashes and the signs of password generators are the same on both sides."""
    made = RenderedRedis(tmp_path, named(render(CPU)))
    password = "aZ9-._~!$&'()*+,;=:@=="
    (tmp_path / "passwords" / "probe").write_text(password)
    made.passwords["probe"] = password
    process = made.start()
    try:
        assert made.call("probe", "PING") is True
        url = f"redis://probe:{password}@127.0.0.1:{made.port}/0"
        with redis.Redis.from_url(url) as client:
            assert client.ping() is True
    finally:
        process.kill()
        process.communicate()


def test_rules_are_the_descriptors() -> None:
    """The chart's rules and those of one machine are the same text."""
    rules = named(render(CPU))["ConfigMap", "bem-fleet-redis"]["data"]["users"]

    assert dict(line.split(" ", 1) for line in rules.splitlines()) == USERS
    assert yaml.safe_load((CPU.parents[1] / "files" / "redis-users.yaml").read_text()) == USERS
