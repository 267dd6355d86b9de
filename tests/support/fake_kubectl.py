"""A kubectl that records its arguments and answers with a release whose ports are of this machine.

Only the building of command lines is tested with it: the services behind its ports are real.
"""

import base64
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = """#!{python}
import json, sys, time
words = sys.argv[1:]
open({log!r}, "a").write(json.dumps(words) + "\\n")
answers = json.load(open({answers!r}))
line = " ".join(words)
for key, answer in answers.items():
    if key in line:
        sys.stdout.write(answer["out"])
        sys.stderr.write(answer["err"])
        sys.stdout.flush()
        if "port-forward" in words and answer["code"] == 0:
            time.sleep(60)
        sys.exit(answer["code"])
sys.stderr.write("error: no answer to " + line)
sys.exit(1)
"""


class FakeKubectl:
    """A folder with a ``kubectl`` that comes first in PATH.

    Args:
        folder: Folder for the executable and its files.
        monkeypatch: Puts the folder into PATH.

    Attributes:
        executable: Path of the executable.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self._log, self._file = folder / "log", folder / "answers.json"
        self._answers: dict[str, dict[str, Any]] = {}
        self.executable = made = folder / "kubectl"
        made.write_text(
            _SCRIPT.format(python=sys.executable, log=str(self._log), answers=str(self._file))
        )
        made.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    @property
    def calls(self) -> list[list[str]]:
        """Arguments of each call."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    @property
    def lines(self) -> list[str]:
        """Each call as a command line."""
        return [shlex.join(words) for words in self.calls]

    def answer(self, part: str, out: str, *, err: str = "", code: int = 0) -> None:
        """Answer calls whose command line contains a text."""
        self._answers[part] = {"out": out, "err": err, "code": code}
        self._file.write_text(json.dumps(self._answers))

    def add_service(self, component: str, port: int, *, tls: bool = False) -> None:
        """Let a release have a component, whose forwarded port is a port of this machine."""
        name = f"fleet-{component}"
        protocol = "https" if tls else "kubernetes.io/h2c"
        ports = [{"name": "grpc", "port": 50051, "appProtocol": protocol}]
        canary = {"metadata": {"name": f"{name}-canary"}, "spec": {"ports": ports}}
        items = [{"metadata": {"name": name}, "spec": {"ports": ports}}, canary]
        self.answer(f"component={component}", json.dumps({"items": items}))
        self.answer(f"service/{name}", f"Forwarding from 127.0.0.1:{port} -> 50051\n")

    def add_secret(self, name: str, content: Mapping[str, bytes]) -> None:
        """Let the release have a Secret."""
        data = {key: base64.b64encode(value).decode() for key, value in content.items()}
        self.answer(f"get secret {name}", json.dumps({"data": data}))
