"""Keys of a command: the operator's, of the run folder or a variable's file, or a given user's."""

import os
from pathlib import Path

from fleet.access.access import is_loopback
from fleet.access.own_key import Metadata, bearer
from fleet.errors import InvalidArgumentError
from fleet.wire import AUTHORIZATION

from bem_fleet.operator_key import VARIABLE, operator_key_file


def operator_metadata(address: str) -> Metadata:
    """Return the gRPC metadata with the operator's key; empty without a key.

    The key that ``make up`` wrote is sent to this machine only: another address may be a mistake,
    and would learn the key. For another fleet the variable names the key's file.

    Args:
        address: Address of the service, ``host:port`` or ``unix:/path``.

    Raises:
        InvalidArgumentError: The file that the variable names cannot be read.
    """
    named = os.environ.get(VARIABLE)
    if not named and not (address.startswith("unix:") or is_loopback(address)):
        return ()
    file = operator_key_file()
    try:
        key = file.read_text().strip()
    except OSError as err:
        if not named:
            return ()  # no fleet was started here; the service says that it needs a key
        raise InvalidArgumentError(
            VARIABLE, f"{file}: {err.strerror}; name a file with a key"
        ) from err
    return ((AUTHORIZATION, bearer(key)),)


def user_metadata(file: Path | None) -> Metadata:
    """Return the metadata with the API key in a file; empty without a file.

    Raises:
        InvalidArgumentError: The file cannot be read.
    """
    if file is None:
        return ()
    try:
        key = file.read_text().strip()
    except OSError as err:
        raise InvalidArgumentError(
            "key-file", f"{file.name}: {err.strerror}; name a file with a key"
        ) from err
    return ((AUTHORIZATION, bearer(key)),)
