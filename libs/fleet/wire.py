"""Wire contracts between services: metadata keys, error reasons, Redis keys and field names."""

REQUEST_ID = "x-request-id"
"""Metadata key and HTTP header: id of the request in logs, audit records and answers."""

TRACEPARENT = "traceparent"
"""Metadata key and HTTP header: W3C trace context."""

SAFETY_STRENGTH = "bem-safety-strength"
"""Metadata key and HTTP header: strength of the safety adapter for one request, in [0, 1]."""

SAFETY_MINIMUM = "bem-safety-minimum"
"""Metadata key: least strength of the safety adapter for one request, in [0, 1], set by the sidecar
where the mission's own default applies."""

TENANT = "bem-tenant"
"""Metadata key: tenant of the request's key, set by the sidecar; never taken from a client."""

CLIENT = "bem-client"
"""Metadata key: name of the caller's key, set by the sidecar; never taken from a client. A mission
on a unix socket divides its work by it."""

YIELDS = "bem-yields"
"""Metadata key: ``1`` for a call that gives way to all others, such as a mirrored one. A mission
without room for it at once refuses it with RESOURCE_EXHAUSTED."""

AUTHORIZATION = "authorization"
"""Metadata key and HTTP header: ``Bearer <key>``."""

FORWARDED_BY = "bem-forwarded-by"
"""Metadata key: ``Bearer <key>`` of the service that forwards a client's call with its key; the
service has applied the limits of the client's key already."""

SESSION_ID = "x-session-id"
"""HTTP header: session of the request; a session stays on one track of a canary."""

TRACK = "x-bem-track"
"""HTTP header of an answer: the track that answered, ``stable`` or ``canary``."""

PLAN = "x-bem-plan"
"""HTTP header of an answer of the model ``router``: the steps of its plan and who chose it."""

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

ROLE_REQUIRED = "ROLE_REQUIRED"
"""Reason in ``google.rpc.ErrorInfo``: the call needs a key with a larger role."""

FEEDBACK_STREAM = "bem:feedback"
"""Redis stream of feedback."""

DECISIONS_STREAM = "bem:decisions"
"""Redis stream of the router's decisions: plans, states and costs, without texts."""

AUDIT_STREAM = "bem:audit"
"""Redis stream of audit records."""

CLAIMS_STREAM = "bem:claims"
"""Redis stream of recorded claims."""

CANARY_STREAM_PREFIX = "bem:canary:"
"""Prefix of a canary's Redis stream; the canary's id follows."""

CANARY_STREAM_PAIRS = 200_000
"""Newest pairs that a canary's stream keeps, and the largest number that an analysis may need."""

PAIR_FIELD = "pair"
"""Field of a canary's stream entry: a serialised ``bemfleet.canary.v1.PairObservation``."""

PAIR_VERSION = 2
"""Version of ``PairObservation`` that this code writes and reads."""
