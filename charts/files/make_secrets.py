"""Job of the chart: makes the passwords, keys and certificates that the release lacks.

Rendering stays deterministic because no secret is made by it. The job reads what is wanted from a
ConfigMap and applies Secrets by server-side apply. It may run any number of times: what exists is
kept, so that pods never hold another password than Redis. Secrets of a release whose chart rendered
them itself are adopted.
"""

import base64
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from urllib3.exceptions import HTTPError

# Helm 4 applies under this name, so that a Secret which the chart renders later, as from a seed,
# meets no conflict.
_DATA_MANAGER = "helm"
_OWNER_MANAGER = "bem-secrets"
_MADE_BY, _DIGEST = "fleet.bem.dev/made-by", "fleet.bem.dev/certificate"
_CHECKSUM = "fleet.bem.dev/checksum"
_TRIES = 40
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
Object = dict[str, Any]


class Secrets:
    """The Secrets of one release.

    Args:
        wanted: What the chart wants, as its ConfigMap holds it.
        namespace: Namespace of the release.
    """

    def __init__(self, wanted: Mapping[str, Any], namespace: str) -> None:
        self._wanted, self._namespace = wanted, namespace
        self._api: Any = client.CoreV1Api()  # the client has no types
        anchor: Any = self._api.read_namespaced_service_account(wanted["anchor"], namespace)
        # Garbage collection deletes the Secrets with the release, by whatever tool it is deleted.
        self._owner = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "name": wanted["anchor"],
            "uid": anchor.metadata.uid,
        }

    def read(self, name: str) -> Object | None:
        """Return data, annotations and presence of a Secret; None if it does not exist."""
        try:
            found = self._api.read_namespaced_secret(name, self._namespace)
        except client.ApiException as err:
            if err.status == 404:
                return None
            raise
        data = {key: base64.b64decode(text) for key, text in (found.data or {}).items()}
        return {"data": data, "annotations": found.metadata.annotations or {}}

    def apply(
        self,
        name: str,
        data: Mapping[str, bytes],
        *,
        component: str,
        kind: str = "Opaque",
        annotations: Mapping[str, str] | None = None,
        outlives_release: bool = False,
    ) -> None:
        """Write a Secret, and own it so that it goes with the release unless it outlives that."""
        helm = {
            "meta.helm.sh/release-name": self._wanted["release"],
            "meta.helm.sh/release-namespace": self._namespace,
        }
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "labels": {**self._wanted["labels"], "app.kubernetes.io/component": component},
                "annotations": {**helm, **(annotations or {})},
            },
            "type": kind,
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }
        self._patch(name, body, _DATA_MANAGER)
        kept = {_MADE_BY: self._wanted["anchor"], "helm.sh/resource-policy": "keep"}
        if outlives_release:
            kept["argocd.argoproj.io/sync-options"] = "Prune=false"
            kept["argocd.argoproj.io/compare-options"] = "IgnoreExtraneous"
        metadata: Object = {"name": name, "annotations": kept}
        if not outlives_release:
            metadata["ownerReferences"] = [self._owner]
        owned = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
        self._patch(name, owned, _OWNER_MANAGER)

    def _patch(self, name: str, body: Object, manager: str) -> None:
        self._api.patch_namespaced_secret(
            name,
            self._namespace,
            body,
            field_manager=manager,
            force=True,
            _content_type="application/apply-patch+yaml",
        )


def make_passwords(store: Secrets, redis: Mapping[str, Any]) -> None:
    """Make a password for each user of Redis that has none."""
    found = store.read(redis["secret"]) or {"data": {}, "annotations": {}}
    annotations = {}
    if found["data"] and _MADE_BY not in found["annotations"]:
        # Pods of the older chart have this digest; with another one all of them would restart.
        annotations[_CHECKSUM] = _yaml_digest(found["data"])
    elif _CHECKSUM in found["annotations"]:
        annotations[_CHECKSUM] = found["annotations"][_CHECKSUM]
    made = {user: secrets.token_hex(32).encode() for user in redis["users"]}
    store.apply(
        redis["secret"], {**made, **found["data"]}, component="redis", annotations=annotations
    )


def make_keys(store: Secrets, keys: Mapping[str, Any]) -> None:
    """Make each secret key that does not exist."""
    found = store.read(keys["secret"]) or {"data": {}}
    made = {name: secrets.token_hex(32).encode() for name in keys["names"]}
    data = {**made, **found["data"]}
    store.apply(keys["secret"], data, component="keys", outlives_release=keys["outlivesRelease"])


def make_access(store: Secrets, access: Mapping[str, Any]) -> None:
    """Make the key of each caller that has none, and the file of all hashes."""
    found = (store.read(access["secret"]) or {"data": {}})["data"]
    data = {name: value for name, value in found.items() if name != "keys.yaml"}
    entries = []
    for name, role in sorted(access["roles"].items()):
        new = f"bem_{secrets.token_urlsafe(32)}".encode()
        text = data.setdefault(f"{name}.key", new)
        digest = hashlib.sha256(text).hexdigest()
        entries.append({"name": name, "role": role, "sha256": digest})
    file = {
        "version": 1,
        "anonymous": {"users": access["anonymousUsers"]},
        "limits": access["limits"],
        "keys": [*entries, *access["keys"]],
    }
    known = found.get("keys.yaml", b"")
    # The same content keeps its text: every pod would reload another one.
    same = bool(known) and yaml.safe_load(known) == file
    data["keys.yaml"] = known if same else yaml.safe_dump(file, sort_keys=False).encode()
    store.apply(access["secret"], data, component="access")


def make_certificates(store: Secrets, tls: Mapping[str, Any]) -> None:
    """Make the authority and each certificate that is missing or has other names than wanted."""
    authority = (store.read(tls["authority"]) or {"data": {}})["data"]
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        if not {"tls.crt", "tls.key"} <= set(authority):
            authority = _new_authority(folder, tls)
        for name, text in authority.items():
            (folder / f"ca-{name}").write_bytes(text)
        component = "tls"
        store.apply(tls["authority"], authority, component=component, kind="kubernetes.io/tls")
        for wanted in tls["certificates"]:
            found = store.read(wanted["secret"]) or {"data": {}, "annotations": {}}
            digest = _certificate_digest(wanted, tls, authority["tls.crt"])
            data = found["data"]
            if found["annotations"].get(_DIGEST) != digest or not data.get("tls.key"):
                made = _new_certificate(folder, wanted, tls)
                data = {**made, "ca.crt": authority["tls.crt"]}
            store.apply(
                wanted["secret"],
                data,
                component=wanted["component"],
                kind="kubernetes.io/tls",
                annotations={_DIGEST: digest},
            )


def _certificate_digest(wanted: Mapping[str, Any], tls: Mapping[str, Any], authority: bytes) -> str:
    """Return the digest of what a certificate is made from, as the chart has always computed it."""
    made_from = {
        "names": wanted["names"],
        "renewal": tls["renewal"],
        "authority": base64.b64encode(authority).decode(),
    }
    text = json.dumps(made_from, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _new_authority(folder: Path, tls: Mapping[str, Any]) -> dict[str, bytes]:
    key, certificate = folder / "new-ca.key", folder / "new-ca.crt"
    subject = ("-subj", f"/CN={tls['authorityName']}", "-days", str(tls["days"]))
    usage = ("-addext", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign")
    _openssl("req", "-x509", *_CURVE, *subject, *usage, "-keyout", key, "-out", certificate)
    return {"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes()}


def _new_certificate(
    folder: Path, wanted: Mapping[str, Any], tls: Mapping[str, Any]
) -> dict[str, bytes]:
    key, request, certificate = folder / "new.key", folder / "new.csr", folder / "new.crt"
    extensions = folder / "extensions"
    names = [f"DNS:{name}" for name in wanted["names"]]
    addresses = [f"IP:{address}" for address in wanted["addresses"]]
    extensions.write_text(
        "basicConstraints=critical,CA:FALSE\n"
        "keyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=serverAuth,clientAuth\n"
        f"subjectAltName={','.join([*names, *addresses])}\n"
    )
    subject = ("-subj", f"/CN={wanted['commonName']}")
    _openssl("req", "-new", *_CURVE, *subject, "-keyout", key, "-out", request)
    signed_by = ("-CA", folder / "ca-tls.crt", "-CAkey", folder / "ca-tls.key")
    serial = ("-set_serial", str(secrets.randbits(127)), "-days", str(tls["days"]))
    files = ("-in", request, "-extfile", extensions, "-out", certificate)
    _openssl("x509", "-req", *signed_by, *serial, *files)
    return {"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes()}


def _openssl(*words: str | Path) -> None:
    command = ["openssl", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {words[0]}: {done.stderr.strip()}")


def _yaml_digest(passwords: Mapping[str, bytes]) -> str:
    text = "\n".join(f"{user}: {word.decode()}" for user, word in sorted(passwords.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_MAKERS: Mapping[str, Callable[[Secrets, Mapping[str, Any]], None]] = {
    "redis": make_passwords,
    "keys": make_keys,
    "access": make_access,
    "tls": make_certificates,
}


def attempts() -> Iterator[int]:
    """Yield the number of each attempt, with a pause that grows between them."""
    for number in range(_TRIES):
        yield number
        time.sleep(min(0.2 * 2**number, 5.0))


def refusal(err: Exception) -> str:
    """Return the API server's message, which stands behind its headers, or an error's own text."""
    try:
        return str(json.loads(getattr(err, "body", None) or "")["message"])
    except (ValueError, TypeError, KeyError):
        return str(err)[:500]


def main() -> int:
    """Make what is wanted; returns 0 once everything exists."""
    load_config: Any = config.load_config  # in a pod its service account, else a kubeconfig
    wanted = json.loads(Path(os.environ["WANTED"]).read_text())
    for number in attempts():
        try:
            load_config()
            store = Secrets(wanted, os.environ["NAMESPACE"])
            for kind, make in _MAKERS.items():
                if kind in wanted:
                    make(store, wanted[kind])
        except (client.ApiException, HTTPError, OSError) as err:
            # The role may not exist yet, or a policy not yet admit the pod to the API server.
            print(f"attempt {number + 1}: {refusal(err)}", file=sys.stderr, flush=True)
        else:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
