"""FacT (Jie and Deng 2023, arXiv 2212.03145): the updates of all d x d weights of the backbone, as one factorised tensor."""

from dataclasses import dataclass, field
from typing import Any

from adapters.base import LINEAR_TARGETS, LowRank, Site, Tensor, searched
from adapters.errors import AdapterError
from adapters.numbers import RATE

VARIANTS = ("tt", "tk")


@dataclass
class FacT(LowRank):
    """target += scale x U S V, with U (d, r) and V (r, d) shared by all layers, V = 0 at the start, and an S (r, r) of each d x d weight.

    fc1 and fc2 hold several d x d weights (four where their width is 4 d), whose outputs stand side by side or are added. As a
    tensor-train (tt), each S has its own r^2 entries. In the Tucker form (tk), S is the sum over a shared core (r, r, r) along its first
    axis, weighted by r entries. U and S start as torch's Linears do, the core and its weights as Xavier says.
    """

    name: str = "fact"
    variant: str = "tt"
    """tt or tk, for which the paper's ranks are 16 and 64."""
    rank: int | None = searched(16)
    targets: list[str] = field(default_factory=lambda: list(LINEAR_TARGETS))
    """Any of q, k, v, proj, fc1, fc2."""
    scale: float | None = searched(1.0)
    """The paper chooses it for each task, from 0.01 to 100."""
    dropout: float = 0.0
    """Dropout rate of x U S in training. The published code has 0.1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("variant", VARIANTS)
        self.check_positive("scale")
        self.check_number("dropout", RATE)

    def init_shared(self, sites: list[Site], seed: int) -> Any:
        """U, V and, of a Tucker form, the core, as attributes of one module."""
        from torch import nn

        shared: Any = nn.Module()
        width = max(min(site.d_in, site.d_out) for site in sites)
        shared.U, shared.V = _uniform(width**-0.5, width, self.r), _uniform(0.0, self.r, width)
        shared.core = _uniform(3**0.5 / self.r, self.r, self.r, self.r) if self.variant == "tk" else None
        shared.squares = sum(max(site.d_in, site.d_out) // width for site in sites)
        return shared

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        width = len(shared.U)
        if min(site.d_in, site.d_out) != width or max(site.d_in, site.d_out) % width:
            raise AdapterError(f"fact cuts weights into squares of {width}; {site.name} has {site.d_in} inputs and {site.d_out} outputs")
        squares = max(site.d_in, site.d_out) // width
        if self.variant == "tk":
            return {"shared": shared, "S": _uniform((6 / (self.r + shared.squares)) ** 0.5, squares, self.r)}
        return {"shared": shared, "S": _uniform((self.r * site.d_in / width) ** -0.5, squares, self.r, self.r)}

    def delta(self, params: Any, x: Tensor) -> Tensor:
        import torch

        shared = params.shared
        core = params.S if shared.core is None else torch.einsum("sk,kij->sij", params.S, shared.core)
        latent = x.unflatten(-1, (-1, len(shared.U))) @ shared.U  # (..., parts of the input, r)
        if latent.shape[-2] == 1:
            latent = torch.einsum("...i,sij->...sj", latent.squeeze(-2), core)
        else:
            latent = torch.einsum("...si,sij->...j", latent, core).unsqueeze(-2)
        return self.scale * (params.drop(latent, self.dropout) @ shared.V).flatten(-2)


def _uniform(bound: float, *shape: int) -> Any:
    """A Parameter whose entries start uniform between -bound and bound."""
    import torch

    return torch.nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
