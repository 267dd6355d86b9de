"""Prompt rendering: validates prompts and conversations of requests and encodes them."""

from collections.abc import Sequence
from typing import Any

from bem.engine import OutputForm
from bem.errors import InvalidRequestError
from bem.prompt_encoding import PromptEncoder
from bem_fleet.services.router.context_limit import ContextOverflowError, input_field
from bem_fleet.services.router.sampling_parsing import check_token
from bem_fleet.services.router.tool_messages import ToolTemplate
from bemfleet.router.v1 import router_pb2 as pb

MAX_MESSAGES = 256
ROLES = ("system", "user", "assistant", "tool")
# A token of an ordinary vocabulary has fewer characters.
_MAX_CHARACTERS_PER_TOKEN = 64


class PromptRenderer:
    """Renders the input of requests for one model.

    Args:
        tokenizer: Tokenizer of the model, with a chat template.
        context_tokens: Limit of prompt and output together, in tokens.
    """

    def __init__(self, tokenizer: Any, context_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer)
        self._tools = ToolTemplate(tokenizer)
        self._context_tokens = context_tokens

    def prompt_ids(self, request: pb.GenerateRequest) -> list[int]:
        """Return the token ids of the request's input.

        Raises:
            ContextOverflowError: The input is so long that it is refused without encoding it.
            InvalidRequestError: The input has no text, or the chat template refuses it.
        """
        if request.WhichOneof("input") == "chat" and request.prompt_ids:
            raise InvalidRequestError("prompt_ids", "excludes chat; leave one of them out")
        if request.WhichOneof("input") != "chat":
            if not request.prompt:
                raise InvalidRequestError(
                    "prompt", "is empty; give a prompt or a chat with messages"
                )
            self._check_length(request, len(request.prompt))
            if request.prompt_ids:
                return self._own_ids(request)
            return self._encoder.encode_text(request.prompt, begins_sequence=True)
        _check_conversation(request.chat)
        self._tools.check(request.chat)
        self._check_length(request, _characters(request.chat))
        return self._encode(
            request.chat,
            request.chat.messages,
            add_generation_prompt=_opens_turn(request.chat),
            continue_final_message=request.chat.continue_final_message,
        )

    def adapter_start(self, request: pb.GenerateRequest, ids: Sequence[int]) -> int:
        """Return the number of prompt tokens before the message at which the adapter begins.

        Args:
            request: Request as received.
            ids: Token ids of its input.

        Raises:
            InvalidRequestError: There is no such message.
        """
        count = request.adapter_from_message
        if count == 0:
            return 0
        messages = request.chat.messages
        if not 0 <= count < len(messages):
            raise InvalidRequestError(
                "adapter_from_message",
                f"{count} is out of range; 0 to {max(0, len(messages) - 1)} is allowed",
            )
        start = self._encode(request.chat, messages[:count], add_generation_prompt=False)
        # The common prefix: a template may end a shorter conversation in another way.
        pairs = enumerate(zip(ids, start, strict=False))
        return next((index for index, (one, other) in pairs if one != other), len(start))

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, control tokens spelled.

        Raises:
            InvalidRequestError: The model has no such token.
        """
        for token in ids:
            check_token("ids", token, len(self._tokenizer))
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _own_ids(self, request: pb.GenerateRequest) -> list[int]:
        """Return the ids that a request gives, if their text is its prompt, which is judged."""
        for token in request.prompt_ids:
            check_token("prompt_ids", token, len(self._tokenizer))
        ids = list(request.prompt_ids)
        if self.text_of(ids) != request.prompt:
            raise InvalidRequestError(
                "prompt_ids", "prompt is not their text; send what Detokenize returns as prompt"
            )
        return ids

    def tool_form(self, request: pb.GenerateRequest) -> OutputForm | None:
        """Return the form of an answer that may call tools; None if there are none."""
        return self._tools.form(request.chat)

    def _encode(
        self,
        chat: pb.ChatPrompt,
        messages: Sequence[pb.ChatMessage],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
    ) -> list[int]:
        return self._encoder.encode_chat(
            [self._tools.message(one, index) for index, one in enumerate(messages)],
            tools=self._tools.tools(chat),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )

    def _check_length(self, request: pb.GenerateRequest, characters: int) -> None:
        if characters > self._context_tokens * _MAX_CHARACTERS_PER_TOKEN:
            raise ContextOverflowError(
                input_field(request),
                context_tokens=self._context_tokens,
                prompt_tokens=characters // _MAX_CHARACTERS_PER_TOKEN,
                counted="at least",
            )


def _characters(chat: pb.ChatPrompt) -> int:
    """Return the characters that callers wrote into a conversation."""
    calls = [call for message in chat.messages for call in message.tool_calls]
    return (
        sum(len(message.content) for message in chat.messages)
        + sum(len(call.arguments) for call in calls)
        + sum(len(tool.description) + len(tool.parameters) for tool in chat.tools)
    )


def _opens_turn(chat: pb.ChatPrompt) -> bool:
    if chat.HasField("add_generation_prompt"):
        return chat.add_generation_prompt
    return not chat.continue_final_message


def _check_conversation(chat: pb.ChatPrompt) -> None:
    """Check the number of messages, their roles and texts, and the way in which the last one ends.

    Raises:
        InvalidRequestError: A limit is exceeded.
    """
    messages = chat.messages
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidRequestError(
            "chat.messages", f"{len(messages)} messages; 1 to {MAX_MESSAGES} are allowed"
        )
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise InvalidRequestError(
                f"chat.messages[{index}].role",
                f"{message.role[:40]!r} is unknown; use one of {', '.join(ROLES)}",
            )
    if not any(message.content or message.tool_calls for message in messages):
        raise InvalidRequestError(
            "chat.messages", "no message has text; at least one must; write a message"
        )
    if not chat.continue_final_message:
        return
    if chat.add_generation_prompt:
        raise InvalidRequestError(
            "chat.continue_final_message",
            "excludes add_generation_prompt; set only one of them",
        )
    if messages[-1].role != "assistant":
        raise InvalidRequestError(
            "chat.continue_final_message",
            f"the last message is of the role {messages[-1].role!r}; it must be the assistant's; "
            "append the beginning of the answer as an assistant message",
        )
