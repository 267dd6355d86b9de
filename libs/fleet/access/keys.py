"""API keys: their file, their hashes, and the ring that is reloaded without a restart.

A key is ``bem_`` and 256 random bits. The file holds its SHA-256. A fast hash suffices because the
bits are random: nobody can search 2^256 keys, so that the work factor of a password hash would only
slow down every request.

Example of a file, YAML or JSON::

    version: 1
    anonymous: {users: loopback, limits: {concurrent: 32}}
    limits: {requests_per_minute: 600}
    keys:
      - {name: operator, role: operator, sha256: 9f86…}
      - name: acme-web
        role: user
        tenant: acme
        # Two hashes while a key is rotated.
        sha256: [2c26…, fcde…]
        limits: {tokens_per_minute: 60000, concurrent: 8}
        expires: 2027-01-31T00:00:00Z
"""

import hashlib
import hmac
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from prometheus_client import Counter, Gauge
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from fleet import logs
from fleet.access.principal import Limits, Principal, Role
from fleet.errors import FleetError

_LOG = logs.get("fleet.access")
_PREFIX = "bem_"
RELOADS = Counter(
    "bem_access_keys_reloads_total",
    "Reloads of the keys file: applied, or rejected as invalid.",
    ["outcome"],
)
VALID = Gauge(
    "bem_access_keys_file_valid",
    "1 while the keys file is in force; 0 while it is invalid or missing and older keys are.",
    # A gauge without labels is 0 in processes that have no keys, such as a mission's.
    ["path"],
)
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Limit = Annotated[int, Field(ge=1, le=10**9)]


class KeysFileError(FleetError):
    """The keys file cannot be used; the message names file and field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyLimits(_Strict):
    """Limits of a key; an absent one does not limit.

    Attributes:
        requests_per_minute: Requests per minute.
        tokens_per_minute: Prompt and output tokens per minute.
        concurrent: Requests in flight at one time.
    """

    requests_per_minute: _Limit | None = None
    tokens_per_minute: _Limit | None = None
    concurrent: _Limit | None = None

    def limits(self) -> Limits:
        """Return the limits as the limiter takes them."""
        return Limits(**self.model_dump())


class KeyEntry(_Strict):
    """One named key.

    Attributes:
        name: Name in audit records, logs and metrics.
        role: ``user``, ``service`` or ``operator``.
        tenant: Tenant of the key's requests; empty for none.
        sha256: SHA-256 of the key, hexadecimal; two while the key is rotated.
        limits: Limits in place of the file's; only user keys have the file's.
        expires: Time after which the key is refused; None for never.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    role: Literal["user", "service", "operator"]
    tenant: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")
    sha256: tuple[_Digest, ...] = Field(min_length=1, max_length=4)
    limits: KeyLimits | None = None
    expires: AwareDatetime | None = None

    @field_validator("sha256", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class AnonymousCallers(_Strict):
    """Callers without a key.

    Attributes:
        users: When they may make users' calls: ``loopback``, on loopback and unix sockets as long
            as no user key exists; ``always``; or ``never``.
        limits: Limits of all of them together.
    """

    users: Literal["loopback", "always", "never"] = "loopback"
    limits: KeyLimits = KeyLimits()


class KeysFile(_Strict):
    """Content of a keys file.

    Attributes:
        version: Version of the format, 1.
        anonymous: Callers without a key.
        limits: Limits of user keys without limits of their own.
        keys: Keys; names and hashes are unique.
    """

    version: Literal[1] = 1
    anonymous: AnonymousCallers = AnonymousCallers()
    limits: KeyLimits = KeyLimits()
    keys: tuple[KeyEntry, ...] = ()

    @field_validator("keys")
    @classmethod
    def _are_unique(cls, keys: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
        for what, values in (
            ("name", [key.name for key in keys]),
            ("sha256", [digest for key in keys for digest in key.sha256]),
        ):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"{what} {twice[:16]!r} occurs twice; remove one of them")
        return keys


def new_key() -> str:
    """Return a new key of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """Return the SHA-256 of a key, hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> KeysFile:
    """Read a keys file.

    Raises:
        KeysFileError: The file is missing, or is not a keys file.
    """
    try:
        # The content of a file with secrets' hashes is never part of an error.
        return KeysFile.model_validate(yaml.safe_load(path.read_text()))
    except OSError as err:
        raise KeysFileError(f"keys_file: {path}: {err.strerror}; name a readable file") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise KeysFileError(f"keys_file: {path}: not valid YAML; correct it") from err
    except ValidationError as err:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in err.errors()]
        raise KeysFileError(f"keys_file: {path}: {'; '.join(problems)}; correct it") from err


class KeyRing:
    """Keys of a file that is reloaded when it changes; a broken file leaves the last keys in force.

    Args:
        path: Path of the file.
        interval_s: Least time between two checks for a change, in seconds.

    Raises:
        KeysFileError: The file is invalid at the start; no server may run without its keys.
    """

    def __init__(self, path: Path, interval_s: float = 1.0) -> None:
        self._path, self._interval_s = path, interval_s
        self._fingerprint = self._read_fingerprint()
        self._apply(read_keys(path))
        self._checked = time.monotonic()

    @property
    def file(self) -> KeysFile:
        """Content in force."""
        self._refresh()
        return self._file

    @property
    def has_user_keys(self) -> bool:
        """Whether there is a key with role user."""
        return any(key.role == "user" for key in self.file.keys)

    def find(self, key: str) -> Principal | None:
        """Return the caller with a key; None if the key is unknown or has expired."""
        self._refresh()
        digest = key_digest(key)
        # A look-up by a prefix of the hash tells an attacker nothing: the hash of a guess is not
        # under the guesser's control. The whole hash is compared in constant time.
        for known, entry, caller in self._index.get(digest[:16], ()):
            if hmac.compare_digest(known, digest):
                expired = entry.expires is not None and entry.expires <= datetime.now(UTC)
                return None if expired else caller
        return None

    def _refresh(self) -> None:
        if time.monotonic() - self._checked < self._interval_s:
            return
        self._checked = time.monotonic()
        fingerprint = self._read_fingerprint()
        if fingerprint == self._fingerprint:
            return
        self._fingerprint = fingerprint
        try:
            self._apply(read_keys(self._path))
        except KeysFileError as err:
            VALID.labels(self._path).set(0)
            RELOADS.labels("rejected").inc()
            _LOG.error("keys file rejected; the last valid keys stay in force", reason=str(err))
            return
        RELOADS.labels("applied").inc()
        _LOG.info("keys file applied", keys=[key.name for key in self._file.keys])

    def _apply(self, file: KeysFile) -> None:
        index: dict[str, list[tuple[str, KeyEntry, Principal]]] = {}
        for entry in file.keys:
            for digest in entry.sha256:
                row = (digest, entry, _principal(entry, file.limits))
                index.setdefault(digest[:16], []).append(row)
        self._file, self._index = file, index
        VALID.labels(self._path).set(1)

    def _read_fingerprint(self) -> tuple[int, int, int] | None:
        """Return time, size and inode; a mounted Secret changes its inode only."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def _principal(entry: KeyEntry, default: KeyLimits) -> Principal:
    limits = entry.limits or (default if entry.role == "user" else KeyLimits())
    return Principal(
        entry.name, Role[entry.role.upper()], entry.tenant, limits.limits(), has_key=True
    )
