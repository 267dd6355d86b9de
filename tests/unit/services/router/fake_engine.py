"""Engine that answers with fixed deltas on a thread of its own."""

import threading
from collections.abc import Sequence

from bem.adapters.loaded import LoadedAdapter
from bem.engine import GenerationRequest, OutputDelta, OutputForm, RequestHandle
from bem.engine.api import OutputCallback


class FakeEngine:
    """Answers every request with the same deltas.

    Args:
        deltas: Deltas of each response; the last may be an exception.
    """

    def __init__(self, deltas: Sequence[OutputDelta | Exception]) -> None:
        self.context_tokens = 512
        self.deltas = deltas
        self.handles: list[RequestHandle] = []
        self.forms: list[OutputForm] = []

    def submit(self, request: GenerationRequest, on_output: OutputCallback) -> RequestHandle:
        """Emit the deltas on another thread."""
        handle = RequestHandle(request, on_output)
        self.handles.append(handle)

        def emit() -> None:
            for delta in self.deltas:
                on_output(delta)

        threading.Thread(target=emit, daemon=True).start()
        return handle

    def prepare(self, form: OutputForm) -> None:
        """Take note of a form that would be compiled."""
        self.forms.append(form)

    def adapters(self) -> list[LoadedAdapter]:
        """Return no adapters."""
        return []

    def adapter(self, name: str) -> LoadedAdapter | None:
        """Return no adapter."""
        del name
        return None


DELTAS = (
    OutputDelta("he", 1, adapter_version="b" * 64),
    OutputDelta("llo", 2, "stop", adapter_version="b" * 64),
)
