"""The last block of a classifier, for the class token alone.

Nothing reads the other tokens after the last block; inside it they only serve as keys and values. Leaving out their queries, projection
and MLP changes no logit and saves about a fourteenth of the arithmetic of ViT-S at 224 px.
"""

from typing import Any

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from adapters.base import Adapter


class ClassTokenAttention(nn.Module):
    """timm's attention with the class token as the only query: tokens (B, N, width) to (B, 1, width). Shares `attention`'s modules."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        for name, module in attention.named_children():
            setattr(self, name, module)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        modules: Any = self
        batch, tokens, _width = x.shape
        q, k, v = modules.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(modules.q_norm(q[:, :, :1]), modules.k_norm(k), v)
        return modules.proj(modules.norm(y.transpose(1, 2).reshape(batch, 1, -1)))


class ClassTokenBlock(nn.Module):
    """timm's block for the class token: tokens (B, N, width) to (B, 1, width). Shares the modules of `block`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        for name, module in block.named_children():
            setattr(self, name, module)
        self.attn = ClassTokenAttention(block.attn)

    def forward(self, x: Tensor) -> Tensor:
        modules: Any = self
        x = x[:, :1] + modules.drop_path1(modules.ls1(modules.attn(modules.norm1(x))))
        return x + modules.drop_path2(modules.ls2(modules.mlp(modules.norm2(x))))


def class_token_only(backbone: VisionTransformer, adapter: Adapter) -> VisionTransformer:
    """The backbone with such a last block, set in place, if that changes no number.

    It stays as it is for another pooling, for a head of its own kind (distilled DeiT's reads two tokens), for another kind of block, and
    for an adapter with a penalty over the tokens behind the attention or with edits that need all tokens.
    """
    block: Any = backbone.blocks[-1]
    one_token = backbone.global_pool == "token" and type(backbone).forward_head is VisionTransformer.forward_head
    plain = type(block) is Block and type(block.attn) is Attention and block.attn.gate is None
    counts_tokens = type(adapter).penalty is not Adapter.penalty and not set(adapter.sites()) <= set("qkv")
    if one_token and plain and adapter.tokenwise and not counts_tokens:
        backbone.blocks[-1] = ClassTokenBlock(block)
    return backbone
