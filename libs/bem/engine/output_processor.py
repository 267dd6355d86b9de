"""Output processor: samples the next tokens of sequences and finishes those that end."""

from torch import Tensor

from bem.backbone import Backbone
from bem.engine.adapter_schedule import AcquiredSegment
from bem.engine.api import RequestHandle
from bem.engine.counters import EngineCounters
from bem.engine.detokenizer import TokenBytes
from bem.engine.grammar import GrammarCompiler
from bem.engine.output_stream import OutputStream
from bem.engine.sequence import Sequence


class OutputProcessor:
    """Creates the output streams of requests and feeds them logits.

    Args:
        backbone: Model whose tokenizer and end tokens are used.
        context_tokens: Limit of prompt and output together.
        counters: Receives the number of generated tokens and the latencies.

    Attributes:
        grammars: Compiles the forms of outputs.
    """

    def __init__(self, backbone: Backbone, context_tokens: int, counters: EngineCounters) -> None:
        self._tokenizer = backbone.tokenizer
        self._end_token_ids = backbone.end_token_ids
        self._token_bytes = TokenBytes(backbone.tokenizer)
        self._context_tokens = context_tokens
        self._counters = counters
        self.grammars = GrammarCompiler(backbone)

    def open(self, handle: RequestHandle, segments: tuple[AcquiredSegment, ...]) -> OutputStream:
        """Return the output stream of a request.

        Args:
            handle: The request.
            segments: Acquired segments; the last one is the request's own adapter.

        Raises:
            InvalidRequestError: The form of the output is not served.
        """
        form = handle.request.form
        return OutputStream(
            handle,
            self._tokenizer,
            self._token_bytes,
            self._end_token_ids,
            segments[-1].version,
            mask=self.grammars.compile(form).begin() if form else None,
        )

    def process(self, sequence: Sequence, logits: Tensor) -> bool:
        """Sample a sequence's next token from ``logits [V]``; return whether it has ended."""
        stream = sequence.output
        before = stream.generated_tokens
        token = stream.sample_next(
            logits, context_left=sequence.computed_tokens < self._context_tokens
        )
        if stream.generated_tokens > before:
            self._counters.generated_tokens += 1
            self._counters.latencies.observe_token(sequence.times)
        if token is None:
            if stream.finish:
                self._counters.latencies.observe_end(sequence.times, stream.finish)
            return True
        sequence.token_ids.append(token)
        sequence.next_token = token
        return False
