"""Model runner: forward passes of prefill batches and decode steps."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from bem.engine.adapter_binding import AdapterBinding
from bem.engine.counters import EngineCounters
from bem.engine.decode_steps import DecodeSteps
from bem.engine.decoder import Decoder, ForwardPlan
from bem.engine.pass_threads import PassThreads
from bem.engine.prefill import PrefillBatch, PrefillChunk
from bem.engine.sampler import with_logprobs
from bem.engine.sequence import Sequence


class ModelRunner:
    """Runs the halves of the decoder over batches and advances the sequences.

    Args:
        decoder: Forward pass in two halves.
        steps: Decode steps.
        binding: Sets the codes before each pass through the upper half.
        like: ``[V, F]`` embedding; gives device, data type and width.
        counters: Receives the numbers of passes, steps and computed prompt tokens.
    """

    def __init__(
        self,
        decoder: Decoder,
        steps: DecodeSteps,
        binding: AdapterBinding,
        like: Tensor,
        counters: EngineCounters,
    ) -> None:
        self.decoder = decoder
        self._steps = steps
        self._binding = binding
        self._like = like
        self._counters = counters
        self._threads = PassThreads(decoder.library, torch.get_num_threads())

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._like.device

    def prefill_lower(self, batch: PrefillBatch) -> None:
        """Pass the chunks through the lower half and store their states in the sequences."""
        self._counters.passes += 1
        padded = batch.padded_tokens
        ids = [one.sequence.token_ids[one.begin : one.end] for one in batch.chunks]
        ids_tensor = torch.tensor(
            [own + [0] * (padded - len(own)) for own in ids], device=self._like.device
        )
        with self._binding.lower_codes([one.code_span for one in batch.chunks]), self._timed(batch):
            hidden, features = self.decoder.lower(ids_tensor, self._plan(batch))
        for row, chunk in enumerate(batch.chunks):
            chunk.sequence.append_lower_states(
                hidden[row, : chunk.tokens], features[row, : chunk.tokens]
            )

    def prefill_upper(self, batch: PrefillBatch) -> list[tuple[Sequence, Tensor]]:
        """Pass the chunks through the upper half.

        Returns:
            The sequences whose prompt is complete now, with their float32 logits ``[V]``.
        """
        self._counters.passes += 1
        chunks = batch.chunks
        sequences = [chunk.sequence for chunk in chunks]
        self._binding.bind(sequences, [chunk.code_span for chunk in chunks])
        hidden = self._like.new_zeros(len(chunks), batch.padded_tokens, self._like.shape[1])
        for row, chunk in enumerate(chunks):
            states = chunk.sequence.lower_states
            hidden[row, : chunk.tokens] = states[0, chunk.begin : chunk.end]
        with self._timed(batch):
            hidden = self.decoder.upper(hidden, self._plan(batch))
        for chunk in chunks:
            self._counters.prompt_tokens += chunk.tokens
            chunk.sequence.computed_tokens = chunk.end
        complete = [row for row, one in enumerate(sequences) if one.is_decoding]
        for row, chunk in enumerate(chunks):
            if chunk.sequence.handle.request.scores_prompt:
                self._score_prompt(chunk, hidden[row])
        if not complete:
            return []
        last = torch.tensor([chunks[row].tokens - 1 for row in complete])
        logits = self.decoder.logits(hidden[torch.tensor(complete), last].unsqueeze(1))
        return [(sequences[row], logits[place]) for place, row in enumerate(complete)]

    def _score_prompt(self, chunk: PrefillChunk, hidden: Tensor) -> None:
        """Give the output stream the prompt tokens behind those of the chunk, with their logits.

        Args:
            chunk: Chunk that has passed the upper half.
            hidden: ``[T, F]`` states of its tokens; padding follows.
        """
        sequence = chunk.sequence
        prompt, top = sequence.handle.request.prompt_ids, sequence.handle.request.sampling.logprobs
        end = min(chunk.end, len(prompt) - 1)  # what follows the last token is sampled
        size = self.decoder.head_rows
        for begin in range(chunk.begin, end, size):
            targets = prompt[begin + 1 : min(end, begin + size) + 1]
            states = hidden[begin - chunk.begin :][: len(targets)]
            logits = self.decoder.logits(states.unsqueeze(1)).cpu()
            sequence.output.add_prompt_tokens(
                with_logprobs(row, token, top or 0)
                for row, token in zip(logits, targets, strict=True)
            )
        if chunk.end == len(prompt) == 1:
            sequence.output.add_prompt_tokens(())

    def decode(self, sequences: list[Sequence]) -> Tensor:
        """Compute one token of each sequence; return the float32 logits ``[R, V]`` on the CPU."""
        with self._threads.decoding(len(sequences)):
            return self._decode(sequences)

    def _decode(self, sequences: list[Sequence]) -> Tensor:
        spans = [one.schedule.span_at(one.computed_tokens) for one in sequences]
        with self._binding.lower_codes(spans):
            hidden, features = self._steps.lower(
                [one.slot for one in sequences],
                [one.stored_tokens for one in sequences],
                [one.next_token for one in sequences],
                [one.evicted_tokens for one in sequences],
            )
        self._binding.bind(sequences, spans)
        for row, sequence in enumerate(sequences):
            sequence.append_lower_states(hidden[row], features[row])
        logits = self._steps.upper().cpu()
        self._counters.steps += 1
        self._counters.passes += 1
        for sequence in sequences:
            sequence.computed_tokens += 1
        return logits

    def _timed(self, batch: PrefillBatch) -> AbstractContextManager[None]:
        tokens, begin = batch.padded_tokens * len(batch.chunks), max(c.begin for c in batch.chunks)
        return self._threads.reading(tokens, begin, upper=batch.upper)

    def _plan(self, batch: PrefillBatch) -> ForwardPlan:
        slots = [one.sequence.slot for one in batch.chunks]
        starts = [one.begin for one in batch.chunks]
        return self.decoder.plan(slots, starts, batch.padded_tokens)
