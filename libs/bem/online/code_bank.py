"""Code bank: shared low-rank factors of all sites, and codes that re-weight their ranks.

The factors are trained once over many families of instructions and then never change. What
feedback changes is a code, one number for each rank of each site: site j computes
``y = W x + s B_j (code_j * (A_j x))``. A code therefore selects among the directions that the
training found; it cannot add one.

Example: with 30 sites of rank 32 a code has 960 numbers, in the order of the sites and, within a
site, of its ranks.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from bem.adapters.artifact import Factors
from bem.errors import InvalidSettingError


class CodeBank:
    """Frozen factors that all codes share.

    Args:
        factors: ``{site path: (A [r, d_in], B [d_out, r])}``, all of one rank; they are copied as
            float32 without gradients.
        scale: Factor s of the low-rank term, above 0.

    Raises:
        InvalidSettingError: There is no site, the ranks differ, or the scale is not above 0.

    Attributes:
        sites: Site paths in the order of a code.
        rank: Rank r of each site.
        scale: Factor s of the low-rank term.
    """

    def __init__(self, factors: Mapping[str, Factors], *, scale: float) -> None:
        ranks = {(a.shape[0], b.shape[1]) for a, b in factors.values()}
        if len(ranks) != 1 or len(set(*ranks)) != 1:
            raise InvalidSettingError(
                f"factors: the ranks {sorted(ranks)} differ or there is no site; a bank has one "
                "rank at all sites"
            )
        if not scale > 0:
            raise InvalidSettingError(f"scale: {scale} is not above 0")
        self.sites, self.scale = tuple(factors), scale
        self.rank: int = ranks.pop()[0]
        self._factors = {
            path: (a.detach().float().clone(), b.detach().float().clone())
            for path, (a, b) in factors.items()
        }

    @property
    def width(self) -> int:
        """Number P of numbers in a code: sites times rank."""
        return len(self.sites) * self.rank

    @property
    def factors(self) -> dict[str, Factors]:
        """Factors of each site; they are shared, so callers must not change them."""
        return dict(self._factors)

    def by_site(self, code: Tensor) -> dict[str, Tensor]:
        """Return the code of each site times the scale, ``[..., P]`` to ``{path: [..., r]}``.

        Raises:
            InvalidSettingError: The code has another width.
        """
        self._check(code)
        split = code.unflatten(-1, (len(self.sites), self.rank)) * self.scale
        return {path: split[..., at, :] for at, path in enumerate(self.sites)}

    def adapter_factors(self, code: Tensor) -> dict[str, Factors]:
        """Return the factors of a plain adapter that computes what the bank does with a code.

        The code goes into B, so that any adapter slot serves it: with a code of ones and the
        bank's scale, ``B diag(code) A x`` is the same sum.

        Args:
            code: ``[P]`` code.

        Raises:
            InvalidSettingError: The code has another width.
        """
        self._check(code)
        split = code.detach().float().view(len(self.sites), self.rank)
        return {path: (a, b * split[at]) for at, (path, (a, b)) in enumerate(self._factors.items())}

    def base_code(self) -> Tensor:
        """Return the code of zeros ``[P]``, with which every site is its frozen layer."""
        return torch.zeros(self.width)

    def _check(self, code: Tensor) -> None:
        if code.shape[-1] != self.width:
            raise InvalidSettingError(
                f"code: has {code.shape[-1]} numbers; {len(self.sites)} sites of rank {self.rank} "
                f"need {self.width}"
            )
