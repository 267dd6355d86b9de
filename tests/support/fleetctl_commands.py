"""Every command of ``fleetctl`` that works with a fleet in a cluster, with what it may answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import typer
from bem_fleet.cli.fleetctl import app

TEXT = "{text}"
"""Stands for the path of a text file."""

_DONE, _REFUSED, _EITHER = (0,), (1,), (0, 1)


@dataclass(frozen=True)
class ClusterCommand:
    """A command line.

    Attributes:
        line: Words without the options of the cluster; ``TEXT`` is a file.
        component: Component of the release that is called.
        codes: Exit codes of an installed fleet; 2, cannot tell, is a fault.
        in_pod: Whether a program in the component's pod answers.
    """

    line: str
    component: str
    codes: tuple[int, ...] = _DONE
    in_pod: bool = False

    def words(self, text: str) -> list[str]:
        """Return the words with the path of a text."""
        return [text if word == TEXT else word for word in self.line.split()]

    @property
    def path(self) -> str:
        """Names of group and command, without options and arguments."""
        words = [word for word in self.line.split() if not word.startswith("-")]
        group = next((one for one in groups() if one == words[0]), "")
        if not group:
            return words[0]
        return f"{group} {next(word for word in words[1:] if word in groups()[group])}"


@cache
def groups() -> dict[str, set[str]]:
    """Return the commands of each group."""
    command: Any = typer.main.get_command(app)
    found = {name: getattr(one, "commands", None) for name, one in command.commands.items()}
    return {name: set(commands) for name, commands in found.items() if commands}


def commands_of_clusters() -> Iterator[str]:
    """Yield group and name of each command that has ``--context``."""
    command: Any = typer.main.get_command(app)
    for name, one in command.commands.items():
        members = getattr(one, "commands", {})
        for inner, two in [("", one), *members.items()]:
            if any("--context" in parameter.opts for parameter in two.params):
                yield f"{name} {inner}".strip()


# Without a bank, and without versions, mission online refuses; without trained modules, memory may
# find nothing. A mission, adapter or letter that does not exist is refused.
COMMANDS = (
    ClusterCommand("status", "orchestrator"),
    ClusterCommand("missions list", "orchestrator"),
    ClusterCommand("missions describe router", "router"),
    ClusterCommand("missions graph", "orchestrator"),
    ClusterCommand("missions gpus", "orchestrator"),
    ClusterCommand("canary status router", "orchestrator"),
    ClusterCommand("canary explain router", "orchestrator"),
    ClusterCommand("canary start nobody --model x", "orchestrator", _REFUSED),
    ClusterCommand("canary pause nobody", "orchestrator", _REFUSED),
    ClusterCommand("canary resume nobody", "orchestrator", _REFUSED),
    ClusterCommand("canary promote nobody", "orchestrator", _REFUSED),
    ClusterCommand("canary abort nobody", "orchestrator", _REFUSED),
    ClusterCommand("adapters list", "router"),
    ClusterCommand("adapters --mission sep list", "sep"),
    ClusterCommand("adapters unload nobody", "router", _REFUSED),
    ClusterCommand("adapters load nobody", "router", _REFUSED),
    ClusterCommand("versions list", "online", _EITHER),
    ClusterCommand("versions status", "online"),
    ClusterCommand("versions hold", "online", _EITHER),
    ClusterCommand("versions release", "online", _EITHER),
    ClusterCommand("versions promote 999", "online", _REFUSED),
    ClusterCommand("versions restore 999", "online", _REFUSED),
    ClusterCommand("versions explain answer-0", "online", _EITHER),
    ClusterCommand("versions forget --user nobody", "online", _EITHER),
    ClusterCommand("feedback send chatcmpl-1 --rating up", "gateway"),
    ClusterCommand("feedback status", "online"),
    ClusterCommand("feedback dead", "online", in_pod=True),
    ClusterCommand("feedback requeue 1-0", "online", _REFUSED, in_pod=True),
    ClusterCommand("feedback discard 1-0", "online", _REFUSED, in_pod=True),
    ClusterCommand(f"memory --session fleetctl ingest {TEXT}", "memory"),
    ClusterCommand("memory --session fleetctl ask Where? --max-tokens 4", "memory", _EITHER),
    ClusterCommand("memory --session fleetctl coverage", "memory"),
    ClusterCommand("memory --session fleetctl forget", "memory"),
    ClusterCommand("safety check hello", "router"),
    ClusterCommand("safety --mission memory check hello --request", "memory"),
    ClusterCommand("safety strength 1 --tenant fleetctl", "router"),
    ClusterCommand("audit list", "witness", in_pod=True),
    ClusterCommand("audit verify", "witness", in_pod=True),
)
"""Command lines in an order in which they can run; none changes what another client sees."""
