"""Keys of the feedback queue and of the processor's state in Redis, and who may use them.

All keys begin with the key of the stream:

========================= ======== ==========================================================
key                       type     content
========================= ======== ==========================================================
``bem:feedback``          stream   ids of entries that have no effect yet
``…:bodies``              hash     body of each of them, by id
``…:once:<key>``          string   id and content digest of an idempotency key's entry
``…:rate:<user>``         string   feedback of the user in this window
``…:entries:<user>``      set      where the user's feedback is: ``q:`` stream, ``d:`` dead
                                   letters, ``e:`` events, each with an id
``…:dead``                stream   entry, reason and deliveries of each dead letter
``…:dead-bodies``         hash     user and body of each of them, by id
``…:events``              hash     user, family and content of each event, by id
``…:family:<family>``     zset     event ids of a family by the hash that draws the sample
``…:users:<family>``      hash     events of each user in the family
``…:families``            zset     families by the time of their last event, in s
``…:contents:<user>``     zset     content digests by the time at which they expire, in s
``…:verdicts``            hash     whether a learner agreed with an event, by id
``…:trust:<user>``        hash     ``agreed`` and ``disagreed``: verdicts on the user's events
``…:totals``              hash     entries by outcome
``…:tombstones``          zset     forgotten event ids by the number of the forgetting
``…:forgotten``           string   number of the last forgetting
========================= ======== ==========================================================

An event keeps the id that its entry had in the stream. No stream holds a text or a user: an entry
that is deleted from a stream stays in its memory and file until all its neighbours are.
"""

from fleet import wire
from fleet.redis_acl import RedisAccess

STREAM = wire.FEEDBACK_STREAM
GROUP = "processor"
"""Consumer group of the stream."""

INTAKE_ACCESS = RedisAccess(
    keys=(
        *(STREAM, f"{STREAM}:bodies"),
        *(f"{STREAM}:once:*", f"{STREAM}:rate:*", f"{STREAM}:entries:*"),
    ),
    commands=(
        *("ping", "eval", "get", "set", "incr", "expire", "ttl"),
        *("xadd", "xlen", "hset", "sadd"),
    ),
)
"""What the gateway needs: it appends, and can read neither feedback nor what became of it."""

PROCESSOR_ACCESS = RedisAccess(
    keys=(STREAM, f"{STREAM}:*"),
    commands=(
        *("ping", "eval", "time", "info", "bgrewriteaof"),
        *("xgroup|create", "xgroup|delconsumer", "xinfo|consumers", "xreadgroup", "xautoclaim"),
        *("xpending", "xack", "xadd", "xdel", "xlen", "xrange"),
        *("get", "incr", "exists", "del", "expire"),
        *("hget", "hmget", "hgetall", "hset", "hsetnx", "hexists", "hdel", "hincrby", "hlen"),
        *("sadd", "srem", "smembers"),
        *("zadd", "zrem", "zcard", "zrange", "zrangebyscore", "zscore", "zpopmax"),
        *("zremrangebyscore", "zremrangebyrank"),
    ),
)
"""What the service ``online`` needs: consumer, events, dead letters and forgetting."""
