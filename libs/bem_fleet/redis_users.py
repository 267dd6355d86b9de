"""Users of the fleet's Redis: one for each service and helper that states its access, and two more.

The local fleet passes these rules to the Redis that it starts, and ``make chart-values`` writes
them to ``charts/files/redis-users.yaml`` for the chart.
"""

from collections.abc import Iterable

from bem_fleet.descriptors import Descriptor

ADMIN = "admin"
"""User of people who maintain Redis; no service has its password."""

PROBE = "probe"
"""User of health probes, which may ask whether Redis answers and nothing else."""

_OTHERS = {ADMIN: "~* &* +@all", PROBE: "+ping"}


def redis_users(descriptors: Iterable[Descriptor]) -> dict[str, str]:
    """Return the rules of each user by name, sorted.

    Args:
        descriptors: Descriptors of all services.
    """
    users = dict(_OTHERS)
    for one in descriptors:
        if one.redis:
            users[one.name] = one.redis.rules
        for helper in one.local.helpers:
            if helper.redis:
                users[helper.name] = helper.redis.rules
    return dict(sorted(users.items()))
