"""Dead letters from a pod: ``python -m bem_fleet.feedback.dead_letter_command list 100``.

``fleetctl feedback`` runs it in mission online's pod in a cluster, where the login of Redis is in
the environment. It prints JSON: ``{"letters": [...]}`` for ``list N``, ``{"id": ...}`` for
``requeue ID`` and ``discard ID``, and ``{"error": ...}`` with exit code 1 if it is refused.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fleet.errors import FleetError, InvalidArgumentError
from pydantic_settings import BaseSettings, SettingsConfigDict

from bem_fleet.feedback.dead_letters import DeadLetter, DeadLetters

COMMANDS = ("list", "requeue", "discard")


class QueueSettings(BaseSettings):
    """The setting of mission online that this command needs; the others are the mission's."""

    model_config = SettingsConfigDict(env_prefix="BEM_ONLINE_", extra="ignore")

    redis_url: str = "redis://127.0.0.1:6379/0"
    """Redis of the feedback queue, with the login of its learner."""


async def decide(redis_url: str, command: str, argument: str) -> dict[str, Any]:
    """List, requeue or discard; returns what is printed.

    Args:
        redis_url: Redis of the feedback queue.
        command: ``list``, ``requeue`` or ``discard``.
        argument: Most letters to list, or the id of one.

    Raises:
        FleetError: There is no such letter or command, or Redis does not answer.
    """
    # The limit counts when an entry is buried, which no command does.
    letters = DeadLetters(redis_url, 1)
    try:
        if command == "list":
            return {"letters": [described(one) for one in await letters.page(count=int(argument))]}
        if command == "requeue":
            return {"id": await letters.requeue(argument)}
        if command == "discard":
            await letters.discard(argument)
            return {"id": argument}
    finally:
        letters.close()
    raise InvalidArgumentError("command", f"{command!r} is unknown; known: {', '.join(COMMANDS)}")


def described(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter without its texts and its user."""
    values = {name: one for name, one in asdict(letter).items() if name not in {"body", "user"}}
    return {**values, "kept": bool(letter.body)}


def main(arguments: Sequence[str]) -> int:
    """Run one command on the queue of the environment; returns the exit code."""
    try:
        found = asyncio.run(decide(QueueSettings().redis_url, *arguments))
    except FleetError as err:
        found = {"error": str(err)}
    sys.stdout.write(json.dumps(found) + "\n")
    return int("error" in found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
