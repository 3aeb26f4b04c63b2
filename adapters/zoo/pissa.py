"""PiSSA (Meng et al. 2024, arXiv 2404.02948): LoRA on the principal singular vectors, which are taken out of the frozen weight."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from adapters.base import LowRank, Site, Tensor, searched


@cache
def _decompositions() -> Any:
    """Singular value decompositions by frozen parameter and target, since grid points and seeds start from the same weights."""
    from torch.utils.weak import WeakTensorKeyDictionary

    return WeakTensorKeyDictionary()


def _decomposition(site: Site) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    module: Any = site.module
    known = _decompositions().setdefault(module.weight, {})
    if site.target not in known:
        known[site.target] = torch.linalg.svd(site.weight.float(), full_matrices=False)  # type: ignore[union-attr]
    return known[site.target]


@dataclass
class PiSSA(LowRank):
    """target += (alpha / r) (x A B - x A0 B0), where (alpha / r) A0 B0 is the best approximation of W^T of rank r, and A, B start as it.

    The second term takes the start out of W, so that W + (alpha / r) (A B - A0 B0)^T is the published residual plus A B.
    """

    name: str = "pissa"
    rank: int | None = searched(32)
    alpha: float | None = None
    """None is the rank, as published."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is not None:
            self.check_positive("alpha")

    @property
    def factor(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.r

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        import torch

        assert site.weight is not None
        if self.r > min(site.d_in, site.d_out):
            self.require("rank", False, f"at most {min(site.d_in, site.d_out)}, the smaller side of {site.name}")
        left, values, right = _decomposition(site)
        root = (values[: self.r] / self.factor).sqrt()
        a, b = (right[: self.r].T * root).contiguous(), (root[:, None] * left[:, : self.r].T).contiguous()
        return {"A": torch.nn.Parameter(a.clone()), "B": torch.nn.Parameter(b.clone()), "A0": a, "B0": b}

    def delta(self, params: Any, x: Tensor) -> Tensor:
        return (x @ params.A @ params.B - x @ params.A0 @ params.B0) * self.factor
