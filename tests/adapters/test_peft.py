"""The formulas of the methods, against PEFT where PEFT has the same one: outputs and gradients of single layers."""

from math import sqrt

import pytest
import torch
from peft import IA3Config, LoraConfig, OFTConfig, PveraConfig, VeraConfig, get_peft_model
from torch import Tensor, nn

from adapters.injection import inject
from tests.helpers.models import HIDDEN, PATHS, WIDTH, adapter, edit_at, randomise, vit

SHAPES = {
    "q": (WIDTH, WIDTH),
    "k": (WIDTH, WIDTH),
    "v": (WIDTH, WIDTH),
    "proj": (WIDTH, WIDTH),
    "fc1": (WIDTH, HIDDEN),
    "fc2": (HIDDEN, WIDTH),
}


class Separate(nn.Module):
    """The Linears of a block side by side, q, k and v apart, as PEFT needs them."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for target, (d_in, d_out) in SHAPES.items():
            fused, linear = block.get_submodule(PATHS[target]), nn.Linear(d_in, d_out)
            start = WIDTH * "qkv".index(target) if target in "qkv" else 0
            linear.weight.data.copy_(fused.weight[start : start + d_out])
            linear.bias.data.copy_(fused.bias[start : start + d_out])
            self.add_module(target, linear)


class Pair:
    """One block with our edits, and the same Linears with PEFT's."""

    def __init__(self, new, config) -> None:
        self.targets = new.targets if hasattr(new, "targets") else ["k", "v"]
        self.block = randomise(inject(vit(), new, 0)).blocks[0]
        self.peft = get_peft_model(Separate(vit().blocks[0]), config).base_model.model

    def ours(self, target: str):
        return edit_at(self.block, target)

    def theirs(self, target: str):
        return self.peft.get_submodule(target)

    def output(self, target: str, x: Tensor) -> Tensor:
        y = self.block.get_submodule(PATHS[target])(x)
        return y.chunk(3, dim=-1)["qkv".index(target)] if target in "qkv" else y

    def agree(self, names: dict[str, str], transposed: bool, mode: bool) -> None:
        """Outputs and the gradients of x and of every new parameter; `names` maps ours to PEFT's."""
        self.block.train(mode)
        self.peft.train(mode)
        for target in self.targets:
            x = torch.randn(2, 5, SHAPES[target][0], generator=torch.Generator().manual_seed(3))
            weights = torch.randn(2, 5, SHAPES[target][1], generator=torch.Generator().manual_seed(4))
            sides = [x.clone().requires_grad_(), x.clone().requires_grad_()]
            outputs = [self.output(target, sides[0]), self.theirs(target)(sides[1])]
            torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
            plain = nn.functional.linear(x, self.theirs(target).base_layer.weight, self.theirs(target).base_layer.bias)
            assert (outputs[0] - plain).abs().max() > 0.05  # the edit is no small thing beside the tolerance
            for output in outputs:
                (output * weights).sum().backward()
            torch.testing.assert_close(sides[0].grad, sides[1].grad, rtol=1e-4, atol=1e-3)
            for ours, theirs in names.items():
                mine, other = getattr(self.ours(target), ours).grad, self.theirs(target).get_parameter(theirs).grad
                other = other.T if transposed and other.ndim > 1 else other.view(mine.shape)
                torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)
                assert mine.abs().max() > 0.01


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_lora_and_dora(use_dora):
    """DoRA's magnitudes are one per output, its norm is over inputs and held constant in the gradient."""
    targets = list(SHAPES)
    new = adapter("dora" if use_dora else "lora", targets=targets)
    config = LoraConfig(r=new.rank, lora_alpha=new.alpha, target_modules=targets, use_dora=use_dora, bias="none")
    pair = Pair(new, config)
    names = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}
    names |= {"m": "lora_magnitude_vector.default.weight"} if use_dora else {}
    for target in targets:
        if use_dora:  # before anything moved
            fresh = edit_at(inject(vit(), new, 0).blocks[0], target)
            torch.testing.assert_close(fresh.m.data, pair.theirs(target).get_parameter(names["m"]).data)
        for ours, theirs in names.items():
            value = getattr(pair.ours(target), ours).data
            pair.theirs(target).get_parameter(theirs).data.copy_(value.T if value.ndim > 1 else value)
    pair.agree(names, transposed=True, mode=True)


def copied(pair: Pair, names: dict[str, str], transposed: bool) -> Pair:
    """With our parameters in PEFT's."""
    for target in pair.targets:
        for ours, theirs in names.items():
            value = getattr(pair.ours(target), ours).data
            pair.theirs(target).get_parameter(theirs).data.copy_(value.T if transposed else value)
    return pair


@pytest.mark.parametrize("name", ["rslora", "pissa"])
def test_rslora_and_pissa(name):
    """PiSSA's product at the start is PEFT's too; both take it out of the frozen weight."""
    new = adapter(name, targets=list(SHAPES))
    special = {"use_rslora": True, "lora_alpha": new.alpha} if name == "rslora" else {"init_lora_weights": "pissa", "lora_alpha": new.rank}
    names = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}
    pair = Pair(new, LoraConfig(r=new.rank, target_modules=new.targets, bias="none", **special))
    for target in new.targets if name == "pissa" else ():
        a, b = (pair.theirs(target).get_parameter(names[part]) for part in "AB")
        start = pair.ours(target)
        torch.testing.assert_close((b @ a).T, start.A0 @ start.B0, rtol=1e-4, atol=1e-5)
    copied(pair, names, transposed=True).agree(names, transposed=True, mode=True)


def test_oft():
    new = adapter("oft", block_size=8, targets=list(SHAPES))
    pair = Pair(new, OFTConfig(oft_block_size=8, r=0, target_modules=new.targets, use_cayley_neumann=False, bias="none"))
    names = {"angles": "oft_R.default.weight"}
    copied(pair, names, transposed=False).agree(names, transposed=False, mode=True)


def vera_pair(name: str, config) -> Pair:
    """Ours with PEFT's projections, and PEFT with our d and b."""
    pair = Pair(adapter(name, targets=list(SHAPES), projections="shared", scale=1.0), config)
    for target in pair.targets:
        mine, other = pair.ours(target), pair.theirs(target)
        a, b = getattr(other, f"{name}_A")["default"], getattr(other, f"{name}_B")["default"]
        assert a.shape == (mine.A.shape[1], HIDDEN) and b.shape == (HIDDEN, mine.B.shape[0])
        assert a.abs().max() <= sqrt(6 / HIDDEN) and b.abs().max() <= sqrt(6 / mine.B.shape[0])  # fan_in = input, as ours
        mine.A.copy_(a.T[: mine.A.shape[0]])
        mine.B.copy_(b.T[:, : mine.B.shape[1]])
        mine.d.data.mul_(5)
        getattr(other, f"{name}_lambda_d")["default"].data.copy_(mine.d.data)
        getattr(other, f"{name}_lambda_b")["default"].data.copy_(mine.b.data.mul_(5))
    return pair


def test_vera():
    pair = vera_pair("vera", VeraConfig(r=8, target_modules=list(SHAPES)))
    pair.agree({"d": "vera_lambda_d.default", "b": "vera_lambda_b.default"}, transposed=False, mode=True)


def test_pvera_in_evaluation_is_the_mean():
    pair = vera_pair("pvera", PveraConfig(r=8, target_modules=list(SHAPES)))
    pair.agree({"b": "pvera_lambda_b.default", "d": "pvera_lambda_d.default"}, transposed=False, mode=False)


def test_pvera_in_training_with_the_same_noise():
    """PEFT draws from one generator per layer; ours draws the same numbers when each edit has such a generator."""
    pair = vera_pair("pvera", PveraConfig(r=8, target_modules=list(SHAPES), generator_seed=11))
    for target in SHAPES:
        pair.targets = [target]
        pair.ours(target).noise = torch.Generator().manual_seed(11)  # anew, for q, k and v draw whenever one of them is looked at
        pair.agree({"b": "pvera_lambda_b.default", "d": "pvera_lambda_d.default"}, transposed=False, mode=True)


def test_d_starts_alike():
    for name, config, start in (("vera", VeraConfig, {}), ("pvera", PveraConfig, {"d_initial": 0.1, "s_initial": None})):
        peft = get_peft_model(Separate(vit().blocks[0]), config(r=8, target_modules=["q"])).base_model.model
        ours = inject(vit(), adapter(name, targets=["q"], **start), 0).blocks[0].attn.qkv.edit.edits["q"]
        assert torch.equal(peft.q.get_parameter(f"{name}_lambda_d.default"), ours.d)
        assert torch.equal(peft.q.get_parameter(f"{name}_lambda_b.default"), ours.b)


def test_ia3_on_keys_and_values():
    pair = Pair(adapter("ia3"), IA3Config(target_modules=["k", "v"], feedforward_modules=[]))
    for target in "kv":
        pair.theirs(target).get_parameter("ia3_l.default").data.copy_(pair.ours(target).gain.data[:, None])
    pair.agree({"gain": "ia3_l.default"}, transposed=False, mode=True)


def test_ia3_on_the_activation():
    """PEFT scales what fc2 reads, which is what the activation gives."""
    block = randomise(inject(vit(), adapter("ia3"), 0)).blocks[0]
    peft = get_peft_model(vit().blocks[0].mlp, IA3Config(target_modules=["fc2"], feedforward_modules=["fc2"])).base_model.model
    gain, theirs = block.mlp.act.edit.gain, peft.fc2.get_parameter("ia3_l.default")
    theirs.data.copy_(gain.data)
    x = torch.randn(2, 5, WIDTH)
    ours, expected = block.mlp(x), peft(x)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    ours.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(gain.grad, theirs.grad.view(-1), rtol=1e-4, atol=1e-3)
