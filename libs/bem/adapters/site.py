"""BEM sites: frozen linear layers with many low-rank adapters beside them, one choice a row."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

KINDS = {"o_proj": "self_attn.o_proj", "down_proj": "mlp.down_proj"}


class RowCodes:
    """Which adapters each row of the batch uses, and their codes; shared by all sites of a model.

    Attributes:
        slots: ``[R, S]`` int64, slot of each of a row's S adapters; None when nothing is active.
        codes: ``[R, S, r]``, or ``[R, T, S, r]`` for codes that differ from token to token.
        fixed: ``[R, 1, U*r]`` codes over factors that every site has joined already, or None.
    """

    def __init__(self) -> None:
        self.slots: Tensor | None = None
        self.codes: Tensor | None = None
        self.fixed: Tensor | None = None
        self._shared: tuple[tuple[int, ...], Tensor] | None = None
        self._places: list[int] = []

    def set(self, slots: Tensor, codes: Tensor) -> None:
        """Make ``slots [R, S]`` and ``codes [R, S, r]`` hold for the forwards that follow.

        Raises:
            ValueError: The two do not fit each other.
        """
        if codes.shape[0] != slots.shape[0] or codes.shape[-2] != slots.shape[1]:
            raise ValueError(f"codes {tuple(codes.shape)} do not fit slots {tuple(slots.shape)}")
        self.slots, self.codes, self._shared = slots, codes, None

    def shared(self) -> tuple[tuple[int, ...], Tensor]:
        """Return the U slots whose factors are joined, and each row's codes over all of them.

        ``[R, 1, U*r]``, or ``[R, T, U*r]`` for codes that differ from token to token.

        A row's code is zero over the adapters that it does not use, so that one matmul with the
        factors of all U adapters serves every row. A slot keeps its place while it is in use, so
        that an adapter that comes or goes changes one place.
        """
        if self.slots is None or self.codes is None:
            raise ValueError("no codes are set")
        if self._shared is None:
            slots = self.slots.tolist()
            used = sorted({slot for row in slots for slot in row})
            order = self._placed(used) if len(used) > 1 else tuple(used)
            at = {slot: place for place, slot in enumerate(order)}
            place = torch.tensor([[at[slot] for slot in row] for row in slots])
            codes = self.codes if self.codes.dim() == 4 else self.codes.unsqueeze(1)
            rows, steps, _, rank = codes.shape
            spread = codes.new_zeros(rows, steps, len(order), rank)
            index = place.to(codes.device)[:, None, :, None].expand_as(codes)
            self._shared = order, spread.scatter_add_(2, index, codes).flatten(2)
        return self._shared

    @contextmanager
    def joined(self, codes: Tensor) -> Iterator[None]:
        """Within, sites read ``codes [R, 1, U*r]`` and what they have joined, nothing else."""
        self.fixed = codes
        try:
            yield
        finally:
            self.fixed = None

    def _placed(self, used: Sequence[int]) -> tuple[int, ...]:
        """Give every slot in use a place, that of one no longer in use if there is one."""
        if len(self._places) > 2 * len(used):
            self._places = []
        held = set(self._places)
        free = [place for place, slot in enumerate(self._places) if slot not in used]
        for slot in used:
            if slot in held:
                continue
            if free:
                self._places[free.pop()] = slot
            else:
                self._places.append(slot)
        return tuple(self._places)

    def clear(self) -> None:
        """Make every site the plain frozen layer."""
        self.slots = self.codes = None


class BemSite(nn.Module):
    """A frozen linear layer plus gated low-rank steps: ``y = W x + s B (code * (A x))``.

    This is LoRA (arXiv 2106.09685) with a diagonal code between its factors, so that
    ``dW = s B diag(code) A``. Adapters are stacked, and each row gathers its own, as in Punica
    (arXiv 2310.18547), here with two batched matmuls.

    Args:
        base: The frozen layer, ``d_in -> d_out``.
        rank: Rank r of every slot; an adapter of lower rank is padded with zeros.
        slots: Number N of slots.
        rows: What each row uses, shared with the other sites.
    """

    base: Any

    def __init__(self, base: nn.Linear, *, rank: int, slots: int, rows: RowCodes) -> None:
        super().__init__()
        self.base = base
        self.rows = rows
        self.A = nn.Parameter(base.weight.new_zeros(slots, rank, base.in_features), False)
        # Rank by rank in memory, as compiled kernels read it.
        up = base.weight.new_zeros(slots, rank, base.out_features).transpose(1, 2)
        self.B = nn.Parameter(up, False)
        self.scale = nn.Parameter(base.weight.new_ones(slots), False)
        # Factors of several adapters side by side, and which slot's lie at each place.
        self._joined: tuple[Tensor, Tensor] | None = None
        self._held: list[int | None] = []

    def written(self, slot: int) -> None:
        """Note that the factors of ``slot`` changed."""
        self._held = [None if held == slot else held for held in self._held]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [R, T, d_in]`` to ``[R, T, d_out]``; exactly the base when nothing is active."""
        y: Tensor = self.base(x)
        slots, codes = self.rows.slots, self.rows.codes
        if self.rows.fixed is not None:
            return self._added(x, y, *self._first(self.rows.fixed.shape[2]), self.rows.fixed)
        if slots is None or codes is None:
            return y
        if not torch.is_grad_enabled():
            return self._serve(x, y)
        # Training keeps the factors in float32 beside a bfloat16 base.
        a = self.A[slots].to(x.dtype)  # [R, S, r, d_in]
        b = self.B[slots].to(x.dtype)  # [R, S, d_out, r]
        code = codes if codes.dim() == 4 else codes.unsqueeze(1)  # [R, 1 or T, S, r]
        code = (code * self.scale[slots][:, None, :, None]).to(x.dtype)
        low = torch.einsum("rti,rski->rtsk", x, a) * code  # [R, T, S, r]
        rows, steps, adapters, rank = low.shape
        up = b.permute(0, 1, 3, 2).reshape(rows, adapters * rank, -1)  # [R, S*r, d_out]
        return y + low.reshape(rows, steps, adapters * rank) @ up

    def _serve(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the steps of all rows with two matmuls over the joined ranks of the adapters in use."""
        used, codes = self.rows.shared()
        if len(used) == 1:
            slot = used[0]
            down, up = self.A[slot].to(x.dtype), self.B[slot].T.to(x.dtype)
            codes = codes * self.scale[slot]
        else:
            down, up = self.join(used, x.dtype)
        return self._added(x, y, down, up, codes)

    @staticmethod
    def _added(x: Tensor, y: Tensor, down: Tensor, up: Tensor, codes: Tensor) -> Tensor:
        low = nn.functional.linear(x, down) * codes.to(x.dtype)  # [R, T, U*r]
        return torch.addmm(y.flatten(0, 1), low.flatten(0, 1), up).view_as(y)

    def make_room(self, places: int, dtype: torch.dtype) -> None:
        """Take memory for the joined factors of ``places`` adapters, where they then stay."""
        rank = self.A.shape[1]
        self._held = [None] * places
        self._joined = (
            self.A.new_zeros(places * rank, self.A.shape[2], dtype=dtype),
            self.B.new_zeros(places * rank, self.B.shape[1], dtype=dtype),
        )

    def _first(self, ranks: int) -> tuple[Tensor, Tensor]:
        if self._joined is None:
            raise RuntimeError("no factors are joined")
        return self._joined[0][:ranks], self._joined[1][:ranks]

    def join(self, used: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return ``[U*r, d_in]`` and, scaled, ``[U*r, d_out]`` of the adapters in ``used``."""
        rank = self.A.shape[1]
        if self._joined is None or len(self._held) < len(used) or self._joined[0].dtype != dtype:
            self.make_room(len(used), dtype)
        down, up = self._first(len(used) * rank)
        for place, slot in enumerate(used):
            if self._held[place] != slot:
                at = slice(place * rank, (place + 1) * rank)
                down[at], up[at] = self.A[slot], self.B[slot].T * self.scale[slot]
                self._held[place] = slot
        return down, up


def install_sites(
    model: nn.Module,
    *,
    layers: Iterable[int],
    kinds: Iterable[str] = tuple(KINDS),
    rank: int,
    slots: int,
    rows: RowCodes,
) -> dict[str, BemSite]:
    """Replace the named layers of a Llama-like model by sites, and return them by module path.

    Args:
        model: A causal model whose decoder layers are ``model.layers``.
        layers: Indices of the decoder layers that get sites.
        kinds: ``o_proj``, ``down_proj`` or both; keys and values never change with a code.
        rank: Rank of every slot.
        slots: Number of slots.
        rows: Shared by all of them.
    """
    sites = {}
    for layer in layers:
        for kind in kinds:
            path = f"model.layers.{layer}.{KINDS[kind]}"
            parent = model.get_submodule(path.rpartition(".")[0])
            base = getattr(parent, kind)
            if isinstance(base, BemSite):
                raise ValueError(f"{path} already is a site")  # noqa: TRY004 - the model is wrong, not a type
            sites[path] = BemSite(base, rank=rank, slots=slots, rows=rows)
            setattr(parent, kind, sites[path])
    return sites
