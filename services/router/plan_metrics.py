"""Prometheus metrics of plans and of the policy."""

from prometheus_client import Counter, Gauge, Histogram

PLANS = Counter("bem_router_plans_total", "Planned requests.", ["source"])
PLAN_STEPS = Counter("bem_router_plan_steps_total", "Steps of plans that ran.", ["task"])
REPLANNED = Counter(
    "bem_router_plans_replanned_total", "Plans of which a step gave no value for the next one."
)
PLAN_PROMPT_TOKENS = Counter("bem_router_plan_prompt_tokens_total", "Prompt tokens of plan steps.")
PLAN_CACHED_TOKENS = Counter(
    "bem_router_plan_cached_tokens_total",
    "Prompt tokens of plan steps whose keys and values came from the prefix cache.",
)
PLAN_SECONDS = Histogram(
    "bem_router_plan_seconds",
    "Time of a plan's choice, without the pass over the prompt.",
    buckets=(0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1),
)
POLICY_VERSION = Gauge("bem_router_policy_version", "Number of the policy version; 0 for none.")
POLICY_DISTANCE = Gauge(
    "bem_router_policy_distance_nats",
    "Measured KL divergence of the last policy update, whether or not it was accepted.",
)
POLICY_UPDATES = Counter("bem_router_policy_updates_total", "Policy updates.", ["decision"])
DECISIONS_DROPPED = Counter(
    "bem_router_decisions_dropped_total", "Decisions that Redis did not take."
)
