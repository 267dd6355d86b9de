"""Wire contracts between services: metadata keys, error reasons and Redis keys, each stated once."""

SAFETY_STRENGTH = "bem-safety-strength"
"""Metadata key: strength of the safety adapter for one request, a number in [0, 1]."""

TENANT = "bem-tenant"
"""Metadata key: tenant of the request."""

CONTENT_FILTERED = "CONTENT_FILTERED"
"""Reason in ``google.rpc.ErrorInfo``: the safety sidecar withheld the request or the answer."""

FEEDBACK_STREAM = "bem:feedback"
"""Redis stream of feedback."""

AUDIT_STREAM = "bem:audit"
"""Redis stream of audit records."""

CLAIMS_STREAM = "bem:claims"
"""Redis stream of recorded claims."""

CANARY_STREAM_PREFIX = "bem:canary:"
"""Prefix of a canary's Redis stream; its id follows."""

PAIR_FIELD = "pair"
"""Field of a canary's stream entry: a serialised ``bemfleet.canary.v1.PairObservation``."""

PAIR_VERSION = 1
"""Version of ``PairObservation`` that this code writes and reads."""
