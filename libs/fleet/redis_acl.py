"""Access control list of Redis: users with the keys and commands that each may use.

A service states its access once, in its ``service.yaml``. The local fleet and the chart make the
same rules of it, so that a service's password opens nothing but what the service needs. The rules
are those that Redis 6.2 and later understand.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*:[a-z0-9:*-]+$", max_length=120)]
_Command = Annotated[str, Field(pattern=r"^[a-z]+(\|[a-z]+)?$", max_length=40)]


class RedisAccess(BaseModel):
    """Access of one user to Redis.

    Attributes:
        keys: Patterns of the keys, such as ``bem:feedback`` or ``bem:canary:*``; every one begins
            with a prefix, so that none means all keys.
        commands: Commands, such as ``xadd``, or one subcommand, such as ``script|load``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[_Key, ...] = ()
    commands: tuple[_Command, ...] = Field(min_length=1)

    @property
    def rules(self) -> str:
        """Rules in Redis's syntax; whatever they do not name is denied."""
        keys = (f"~{key}" for key in self.keys)
        return " ".join((*keys, *(f"+{command}" for command in self.commands)))


def acl_file(rules: Mapping[str, str], passwords: Mapping[str, str]) -> str:
    """Return the content of Redis's ``aclfile``; it holds hashes of the passwords only.

    The user ``default``, which a connection without a login would get, is off.

    Args:
        rules: Rules of each user.
        passwords: Password of each user.

    Raises:
        KeyError: A user has no password.
    """
    lines = ["user default off resetkeys resetchannels -@all"]
    for user, allowed in rules.items():
        digest = hashlib.sha256(passwords[user].encode()).hexdigest()
        lines.append(f"user {user} on #{digest} resetkeys resetchannels -@all {allowed}")
    return "\n".join(lines) + "\n"
