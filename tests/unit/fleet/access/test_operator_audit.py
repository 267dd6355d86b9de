"""Record of an operator's action in a real Redis."""

import redis
from fleet.access.operator_audit import OperatorAudit
from fleet.access.principal import Principal, Role
from fleet.audit_chain import head_key, verify_chain
from fleet.testing import RedisServer


async def test_record_is_part_of_the_chain(redis_server: RedisServer) -> None:
    """It names key, tenant and method, under the chain's secret."""
    audit = OperatorAudit(redis_server.url, "audit", b"secret")
    operator = Principal("ops", Role.OPERATOR, "acme", has_key=True)
    await audit.record(operator, "/x.S/M")
    await audit.close()
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        records = client.xrange("audit")
        head = str(client.get(head_key("audit")))

    assert verify_chain(records, head, (b"secret",)) == []
    fields = records[0][1]
    assert (fields["action"], fields["principal"], fields["tenant"]) == ("operator", "ops", "acme")
    assert fields["method"] == "/x.S/M"


async def test_unused_audit_needs_no_redis() -> None:
    """A server without operators' calls never connects."""
    await OperatorAudit("redis://127.0.0.1:1/0", "audit", b"").close()
