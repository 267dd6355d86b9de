"""Keys of the local fleet: the operator's, those of the services, and the file of all hashes.

``make up`` keeps the operator's key and the users' entries, and gives every service a new key.
"""

from pathlib import Path

from fleet.access.keys import KeyEntry, key_digest, new_key
from fleet.access.keys_editing import read_or_empty, with_key, write_keys, write_private

from bem_fleet.cli.local.plan import Plan

OPERATOR = "operator"
"""Name of the operator's key."""


def prepare_keys(plan: Plan) -> None:
    """Write the keys of operator and services, and enter their hashes in the keys file.

    Raises:
        KeysFileError: The keys file of an earlier start is not a keys file.
    """
    plan.service_keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = read_or_empty(plan.keys_file)
    operator = _kept_key(plan.operator_key)
    file = with_key(file, _entry(OPERATOR, "operator", operator))
    for one in plan.services:
        if one.kind == "control":
            key = new_key()
            write_private(plan.service_key(one.name), f"{key}\n")
            file = with_key(file, _entry(one.name, one.key_role, key))
    write_keys(plan.keys_file, file)


def _kept_key(path: Path) -> str:
    """Return the key in a file, which is made if it does not exist."""
    if path.exists():
        path.chmod(0o600)
        return path.read_text().strip()
    key = new_key()
    write_private(path, f"{key}\n")
    return key


def _entry(name: str, role: str, key: str) -> KeyEntry:
    return KeyEntry.model_validate({"name": name, "role": role, "sha256": key_digest(key)})
