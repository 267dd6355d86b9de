"""Planner: chooses the plan of a request, explains it, and measures the distance of an update."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.errors import InvalidSettingError
from bem.policy.actions import Plan, plan_text
from bem.policy.artifact import PolicyArtifact
from bem.policy.hysteresis import PlanHysteresis
from bem.policy.network import kl_divergence
from bem.policy.outcomes import node_states


@dataclass(frozen=True)
class PlanAlternative:
    """A plan that the policy considered.

    Attributes:
        plan: Steps of the plan.
        probability: Probability under the policy, in [0, 1].
        expected_reward: Expected reward of the plan.
        reason: Why it was not chosen; empty for the chosen plan.
    """

    plan: Plan
    probability: float
    expected_reward: float
    reason: str = ""


@dataclass(frozen=True)
class PlanChoice:
    """Chosen plan of a request.

    Attributes:
        plan: Steps of the plan.
        probability: Probability under the policy, in [0, 1].
        step_probabilities: Probability of each step given the steps before it.
        expected_reward: Expected reward of the plan.
        expected_gain: Expected reward less that of the best other plan.
        alternatives: The other plans, most probable first.
        held: Whether hysteresis kept the session's plan.
        reason: Why this plan was chosen.
    """

    plan: Plan
    probability: float
    step_probabilities: tuple[float, ...]
    expected_reward: float
    expected_gain: float
    alternatives: tuple[PlanAlternative, ...]
    held: bool
    reason: str


class Planner:
    """Greedy planner of one policy version.

    Args:
        artifact: The policy.
        hysteresis: Memory of the sessions' plans; None switches whenever the policy does.
    """

    def __init__(self, artifact: PolicyArtifact, hysteresis: PlanHysteresis | None = None) -> None:
        self.artifact = artifact
        self._hysteresis = hysteresis

    @torch.no_grad()
    def choose(
        self, features: Tensor, *, session: str = "", missing: Collection[str] = ()
    ) -> PlanChoice | None:
        """Return the plan of a request; None if no plan can run.

        Args:
            features: ``[F]`` features of the item.
            session: Name of the session, for hysteresis; may be empty.
            missing: Tasks whose adapter is not loaded; plans with them cannot run.
        """
        tree = self.artifact.tree
        states = node_states(tree, features.unsqueeze(0))
        log_probabilities = self.artifact.policy(states, tree.masks)[0]
        chances = tree.plan_log_probabilities(log_probabilities).exp().tolist()
        rewards = self._expected_rewards(self.artifact.values(states)[0])
        runnable = [
            place
            for place, plan in enumerate(tree.plans)
            if not any(action.adapter in missing for action in plan)
        ]
        if not runnable:
            return None
        chosen = max(runnable, key=lambda place: chances[place])
        held, reason = False, "most probable plan"
        if self._hysteresis:
            decision = self._hysteresis.choose(session, chosen, rewards)
            # The session's plan may have lost its adapter since.
            if decision.plan in runnable:
                held = decision.held
                chosen, reason = decision.plan, f"{reason}; {decision.reason}"
        steps = tuple(
            float(log_probabilities[node, action].exp()) for node, action in tree.path(chosen)
        )
        others = self._alternatives(chosen, chances, rewards, runnable)
        runner_up = max(
            (rewards[place] for place in runnable if place != chosen), default=rewards[chosen]
        )
        return PlanChoice(
            plan=tree.plans[chosen],
            probability=chances[chosen],
            step_probabilities=steps,
            expected_reward=rewards[chosen],
            expected_gain=rewards[chosen] - runner_up,
            alternatives=others,
            held=held,
            reason=reason,
        )

    def _expected_rewards(self, values: Tensor) -> list[float]:
        """Return the value of each plan's last action: ``[nodes, A]`` to one number a plan."""
        tree = self.artifact.tree
        return [float(values[tree.path(place)[-1]]) for place in range(len(tree.plans))]

    def _alternatives(
        self, chosen: int, chances: list[float], rewards: list[float], runnable: list[int]
    ) -> tuple[PlanAlternative, ...]:
        plans = self.artifact.tree.plans
        found = []
        for place in sorted(range(len(plans)), key=lambda place: -chances[place]):
            if place == chosen:
                continue
            if place not in runnable:
                reason = "an adapter of the plan is not loaded"
            elif chances[place] > chances[chosen]:
                reason = "hysteresis keeps the session's plan"
            else:
                lead = rewards[chosen] - rewards[place]
                reason = f"less probable; expected reward lower by {lead:.3f}"
            found.append(PlanAlternative(plans[place], chances[place], rewards[place], reason))
        return tuple(found)


def describe_choice(choice: PlanChoice) -> str:
    """Return plan and probability as one line, for a header."""
    return f"{plan_text(choice.plan)}; p={choice.probability:.3f}"


@torch.no_grad()
def policy_distance(old: PolicyArtifact, new: PolicyArtifact) -> tuple[float, float]:
    """Return mean and largest KL(old || new) over the old policy's reference states, nats.

    Every node of the plan tree counts once for each reference state, whether or not the policy
    visits it often: an update must not change rare decisions without bounds either.

    Raises:
        InvalidSettingError: The policies have other actions or features.
    """
    same_actions = old.tree.actions == new.tree.actions and old.tree.horizon == new.tree.horizon
    if not same_actions or old.reference.shape[1] != new.reference.shape[1]:
        raise InvalidSettingError(
            "policy: actions, horizon and features differ from those of the current version; "
            "restore or deploy it as a first version instead of an update"
        )
    states = node_states(old.tree, old.reference)
    masks = old.tree.masks
    divergence = kl_divergence(old.policy(states, masks), new.policy(states, masks)).clamp(min=0)
    return float(divergence.mean()), float(divergence.max())
