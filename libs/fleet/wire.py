"""Wire contracts between services: metadata keys, error reasons, Redis keys and field names."""

REQUEST_ID = "x-request-id"
"""Metadata key and HTTP header: id of the request in logs, audit records and answers."""

TRACEPARENT = "traceparent"
"""Metadata key and HTTP header: W3C trace context."""

SAFETY_STRENGTH = "bem-safety-strength"
"""Metadata key and HTTP header: strength of the safety adapter for one request, in [0, 1]."""

TENANT = "bem-tenant"
"""Metadata key and HTTP header: tenant of the request."""

OPERATOR_KEY = "bem-operator-key"
"""Metadata key: key of an operator, for calls that only operators may make."""

SESSION_ID = "x-session-id"
"""HTTP header: session of the request; a session stays on one track of a canary."""

TRACK = "x-bem-track"
"""HTTP header of an answer: the track that answered, ``stable`` or ``canary``."""

CONTENT_FILTER = "x-bem-content-filter"
"""HTTP header of an answer of which text was withheld: side, category, constraint and score."""

ERROR_DOMAIN = "bem.dev"
"""Domain in ``google.rpc.ErrorInfo``."""

CONTENT_FILTERED = "CONTENT_FILTERED"
"""Reason in ``google.rpc.ErrorInfo``: the safety sidecar withheld the request or the answer."""

CONTEXT_LENGTH_EXCEEDED = "CONTEXT_LENGTH_EXCEEDED"
"""Reason in ``google.rpc.ErrorInfo``: prompt and output do not fit the context.

Its metadata has ``context_tokens``, ``prompt_tokens``, ``max_tokens`` (0 if the prompt alone is too
long) and ``counted`` (``at least`` if the prompt was not counted to its end, else ``exactly``).
"""

NOT_AN_OPERATOR = "NOT_AN_OPERATOR"
"""Reason in ``google.rpc.ErrorInfo``: the call needs an operator's key."""

FEEDBACK_STREAM = "bem:feedback"
"""Redis stream of feedback."""

AUDIT_STREAM = "bem:audit"
"""Redis stream of audit records."""

CLAIMS_STREAM = "bem:claims"
"""Redis stream of recorded claims."""

CANARY_STREAM_PREFIX = "bem:canary:"
"""Prefix of a canary's Redis stream; the canary's id follows."""

PAIR_FIELD = "pair"
"""Field of a canary's stream entry: a serialised ``bemfleet.canary.v1.PairObservation``."""

PAIR_VERSION = 1
"""Version of ``PairObservation`` that this code writes and reads."""
