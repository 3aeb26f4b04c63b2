"""OFT (Qiu et al. 2023, arXiv 2306.07280): the input of a Linear is rotated by a block-diagonal orthogonal matrix."""

from dataclasses import dataclass
from typing import Any

from adapters.base import OnLinears, Site, Tensor, searched
from adapters.errors import AdapterError


@dataclass
class OFT(OnLinears):
    """target = W (x R) + b, with R = diag(R1, R2, ...), Ri = (I + Qi)^-1 (I - Qi) (Cayley), Qi skew-symmetric and 0 at the start.

    The edit adds W (x R - x), which is 0 to the bit at the start. A block of size b has b (b - 1) / 2 parameters.
    """

    name: str = "oft"
    block_size: int | None = searched(32)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("block_size", whole=True)

    def init_params(self, site: Site, shared: Any) -> dict[str, Any]:
        import torch

        size = self.block_size
        assert size is not None  # every grid point sets it
        if site.d_in % size:
            raise AdapterError(f"adapter.block_size must divide the inputs of {site.name}, which are {site.d_in}; found {size}")
        angles = torch.nn.Parameter(torch.zeros(site.d_in // size, size * (size - 1) // 2))
        return {"angles": angles, "W": site.weight}

    def change(self, params: Any) -> Tensor:
        """R - I = -2 Q (I + Q)^-1 of every block, (blocks, size, size), in the precision of the parameters."""
        import torch

        size = self.block_size
        assert size is not None
        upper = params.angles.new_zeros(len(params.angles), size, size)
        rows, columns = torch.triu_indices(size, size, 1, device=upper.device)
        upper[:, rows, columns] = params.angles
        skew = upper - upper.mT
        identity = torch.eye(size, dtype=skew.dtype, device=skew.device)
        return -2 * torch.linalg.solve_ex(identity + skew, skew)[0]  # I + Q is never singular, and a check would wait for a GPU

    def edit(self, params: Any, x: Tensor, y: Tensor) -> Tensor:
        import torch
        from torch.nn import functional

        with torch.autocast(x.device.type, enabled=False):  # a rotation in bf16 would be none
            change = self.change(params)
        moved = torch.einsum("...bi,bij->...bj", x.unflatten(-1, (len(change), -1)), change.to(x.dtype)).flatten(-2)
        return y + functional.linear(moved, params.W)
