"""Feedback examples: what the learner reads of events, as token ids of the base model."""

from collections.abc import Mapping
from typing import Any

from bem.backbone import Backbone
from bem.online.feedback import MAX_TOKENS, FeedbackExample, FeedbackKind
from bem.prompt_encoding import PromptEncoder
from bem.training.activation_cache import prompt_ids
from bem_fleet.feedback.event_store import Event

LEAST_WEIGHT = 0.05
"""Weight of an event whose user has almost no trust."""

_HINT = "{prompt}\n\nThe right answer is: {correction}"


class ExampleEncoder:
    """Makes examples of events.

    Args:
        backbone: Base model.
        max_tokens: Longest prompt and reply together.
        hints: Whether corrections get the prompt with the correction in it, for distillation.
    """

    def __init__(self, backbone: Backbone, max_tokens: int, *, hints: bool = False) -> None:
        self._backbone, self._max_tokens = backbone, min(max_tokens, MAX_TOKENS)
        self._hints = hints

    def prompt(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a user message."""
        return tuple(prompt_ids(self._backbone, text))

    def reply(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a reply with its end of turn."""
        ids = PromptEncoder(self._backbone.tokenizer).encode_text(text.strip())
        return (*ids, min(self._backbone.end_token_ids))

    def example(self, event: Event, condition: str) -> FeedbackExample | None:
        """Return the example of an event; None if it teaches no reply or is too long.

        Args:
            event: Accepted event.
            condition: Condition that it teaches.
        """
        content = event.content
        kind, reply = _taught(content)
        if not content["prompt"].strip() or not reply.strip():
            return None
        prompt, target = self.prompt(content["prompt"]), self.reply(reply)
        hinted: tuple[int, ...] = ()
        if kind == "correction" and self._hints:
            hint = _HINT.format(prompt=content["prompt"], correction=reply)
            hinted = self.prompt(hint)
        if max(len(prompt), len(hinted)) + len(target) > self._max_tokens:
            return None
        return FeedbackExample(
            event=event.identifier,
            condition=condition,
            user=event.user,
            prompt=prompt,
            reply=target,
            kind=kind,
            weight=max(LEAST_WEIGHT, 2 * event.weight),
            hinted=hinted,
        )


def _taught(content: Mapping[str, Any]) -> tuple[FeedbackKind, str]:
    """Return what an event teaches, and the reply that it is about; empty for none."""
    for name in ("edit", "correction"):
        if content[name]:
            return "correction", content[name]
    rated = content["answer"] if content["rating"] else ""
    return ("good" if content["rating"] == "up" else "bad"), rated
