"""VPT (Jia et al. 2022, arXiv 2203.12119): trained tokens that attention reads beside the image's own."""

from dataclasses import dataclass
from typing import Any

from adapters.base import Adapter, Site, Tensor
from adapters.numbers import RATE


@dataclass
class VPT(Adapter):
    """N trained tokens behind the class token: at every block its own (deep), or at the first block, up to the last (shallow).

    They start uniform up to sqrt(6 / (3 p^2 + d)), with patches of p x p pixels and the width d, and are taken out before the norm.
    """

    name: str = "vpt"
    deep: bool = True
    tokens: int = 10
    """N. The paper chooses it for each task, from 1 to 200; sweep it (-m adapter.tokens=10,50), since no pack has two lengths."""
    dropout: float = 0.0
    """Dropout rate of the tokens in training. The published code has 0.1."""

    mergeable = False
    tokenwise = False
    starts_as_identity = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("tokens", whole=True)
        self.check_number("dropout", RATE)

    def sites(self) -> tuple[str, ...]:
        return ("tokens", "block")

    def init_shared(self, sites: list[Site], seed: int) -> tuple[int, int]:
        """The first and the last adapted block."""
        blocks = [site.block for site in sites if site.block is not None]  # in the order of `layers`
        return min(blocks), max(blocks)

    def init_params(self, site: Site, shared: tuple[int, int]) -> dict[str, Any]:
        import torch

        enters, leaves = self.deep or site.block == shared[0], self.deep or site.block == shared[1]
        params: dict[str, Any] = {"active": enters if site.target == "tokens" else leaves, "position": min(1, site.prefix_tokens or 0)}
        if site.target == "tokens" and enters:
            bound = (6 / (3 * site.patch_size**2 + site.d_in)) ** 0.5
            params["prompt"] = torch.nn.Parameter(torch.empty(self.tokens, site.d_in).uniform_(-bound, bound))
        return params

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        import torch

        if not params.active:
            return y
        if params.target == "block":
            return torch.cat([y[:, : params.position], y[:, params.position + self.tokens :]], dim=1)
        prompt = params.drop(params.prompt.to(y.dtype).expand(len(y), -1, -1), self.dropout)
        return torch.cat([y[:, : params.position], prompt, y[:, params.position :]], dim=1)
