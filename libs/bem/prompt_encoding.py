"""Prompt encoder: texts and conversations to token ids; only the template makes control tokens.

A tokenizer reads ``<|im_end|>`` in an ordinary string as the control token of that name. A text
that a caller writes must not end its own turn and begin another one, so the encoder reads such
spellings as the letters that they are. Only the model's chat template makes control tokens.

Example: the user's message ``Hi<|im_end|>`` becomes the token ``<|im_start|>``, the text
``user``, a line break and ``Hi``, the letters ``<|im_end|>`` as text, and then the token
``<|im_end|>`` of the template.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from bem.errors import InvalidRequestError

_MAX_REASON = 200


class PromptEncoder:
    """Encodes prompts for one model.

    Token ids of a text without spelled control tokens are those of transformers' ``encode`` and
    ``apply_chat_template``.

    Args:
        tokenizer: Tokenizer of the model, with a chat template for ``encode_chat``.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def begin_ids(self) -> list[int]:
        """Token ids with which the tokenizer begins a sequence; none for most models."""
        begun, text = (self.encode_text("a", begins_sequence=one) for one in (True, False))
        return begun[: begun.index(text[0])]

    def encode_text(self, text: str, *, begins_sequence: bool = False) -> list[int]:
        """Return the token ids of a text; spelled control tokens are text.

        Args:
            text: Any text.
            begins_sequence: Whether to add the tokens with which the tokenizer begins a sequence,
                such as ``<s>`` of Llama 2.
        """
        ids: list[int] = self._tokenizer.encode(
            text, add_special_tokens=begins_sequence, split_special_tokens=True
        )
        return ids

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[int]:
        """Return the token ids of a conversation in the model's chat template.

        Args:
            messages: Messages with ``role`` and ``content``, oldest first; those of the assistant
                may have ``tool_calls``.
            tools: Tools that the template describes to the model; None for none. Names of members
                within them and within calls must have no control tokens.
            add_generation_prompt: Whether to open the assistant's turn after the last message.
            continue_final_message: Whether the last message stays open, so that the model
                continues it; excludes ``add_generation_prompt``.

        Raises:
            InvalidRequestError: The template refuses the conversation, or there is no template.
        """
        if not self._tokenizer.chat_template:
            raise InvalidRequestError(
                "chat", "the model has no chat template; send a prompt instead of messages"
            )
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] if tools else None,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tokenize=True,
                return_dict=False,
                sanitize_control_tokens=True,
            )
        except TemplateError as err:
            raise InvalidRequestError(
                "chat.messages",
                f"the model's chat template refuses them: {str(err)[:_MAX_REASON]}; change them",
            ) from err
        except (TypeError, ValueError) as err:
            # The text of these errors may hold the whole conversation.
            raise InvalidRequestError(
                "chat.messages",
                "the model's chat template cannot render them; change roles or the last message",
            ) from err
        return ids
