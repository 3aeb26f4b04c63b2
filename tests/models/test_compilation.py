"""`compile=true`: the same numbers from compiled blocks, random draws included, and no compilation for an odd batch."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from adapters.injection import edits
from adapters.stream import rand, randn, stream
from pvera.errors import UserError
from pvera.models import compilation
from pvera.models.pack import pack
from pvera.rows import store
from tests.helpers.families import tiny
from tests.helpers.models import CASES, adapter, batch, classifier, randomise, vit

#: What makes graphs as inductor does, and does with them what torch does by itself, so that no C++ has to be compiled.
EAGER = "aot_eager"


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    """Blocks compile with EAGER; the graphs that were made."""
    from torch._dynamo.backends.registry import lookup_backend

    made, compile = [], nn.Module.compile

    def backend(graph, inputs):
        made.append(graph)
        return lookup_backend(EAGER)(graph, inputs)

    monkeypatch.setattr(nn.Module, "compile", lambda module, **how: compile(module, backend=backend, **how))
    torch.compiler.reset()
    return made


@pytest.mark.parametrize("draw", [randn, rand])
def test_a_compiled_graph_draws_what_the_generator_gives(draw):
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    streams = [stream(generator) for generator in generators]
    assert stream(generators[0]) is streams[0]

    def draws(sources):
        return [draw((3, 4), generator=sources[i], device="cpu", dtype=torch.float64) for i in (0, 1, 0, 0, 1)]

    found = torch.compile(lambda: draws(streams), backend=EAGER, fullgraph=True)()
    for seed, generator in enumerate(generators):
        generator.manual_seed(seed)
    for one, other in zip(found, draws(generators), strict=True):
        assert torch.equal(one, other)


def test_a_stream_lives_no_longer_than_its_generator():
    from adapters import stream as module

    before = len(module._GENERATORS)
    generator = torch.Generator()
    stream(generator)
    assert len(module._GENERATORS) == before + 1
    del generator
    assert len(module._GENERATORS) == before


@pytest.mark.parametrize(
    ("name", "drop_path"),
    [
        pytest.param(name, 0.0, marks=[] if name == "ia3-corrected" else pytest.mark.slow)
        for name in CASES if "linear_probe" not in name and not CASES[name].whole
    ] + [("pvera-corrected", 0.4), pytest.param("lora-corrected", 0.4, marks=pytest.mark.slow)],
)  # fmt: skip
def test_compiled_blocks_have_the_losses_and_gradients_of_plain_ones(name, drop_path, counted):
    check_compiled(CASES[name], None, counted, drop_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adaptformer", "convpass", "fact", "lora", "repadapter", "vpt"])
def test_compiled_blocks_drop_what_plain_ones_do(name, counted):
    check_compiled(adapter(name, dropout=0.5), None, counted)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["DINOv3 S+, H+", "BEiT, BEiT v2", "Perception Encoder"])
def test_compiled_blocks_take_the_arguments_of_their_family(family, counted):
    check_compiled(CASES["lora-corrected"], tiny(family), counted)


def check_compiled(new, backbone, counted, drop_path=0.0):
    found = []
    for fast in (False, True):
        models = [randomise(classifier(new, backbone, seed=seed, drop_path=drop_path), seed) for seed in (1, 2)]
        if fast:
            models[0].compile_blocks()
        packed = pack(models).train()
        images, labels = batch(8)
        for _ in range(2):  # the second draws where the first ended
            packed.zero_grad()
            logits = packed.batch(images, 8)
            classify = nn.functional.cross_entropy(logits, labels)
            (classify + sum(torch.as_tensor(new.penalty(model)) for model in models)).backward()
        gradients = {
            f"{i}.{key}": parameter.grad.clone() for i, model in enumerate(models) for key, parameter in model.named_parameters()
            if parameter.grad is not None
        }  # fmt: skip
        found.append({"logits": logits.detach()} | gradients)
    assert counted
    assert found[0].keys() == found[1].keys() and len(found[0]) > 4
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, rtol=1e-4, atol=1e-6, msg=lambda said, key=key: f"{key}: {said}")


def test_blocks_of_the_same_make_share_a_graph_and_a_shorter_batch_compiles_nothing(counted):
    model = classifier(CASES["lora-corrected"]).compile_blocks().eval()
    images, _ = batch(6)
    with torch.inference_mode():
        whole = model.batch(images, 6)
        assert len(counted) == 1  # of two blocks
        torch.testing.assert_close(model.batch(images[:4], 6), whole[:4])
        assert len(counted) == 1
        model.batch(images[:4], 4)
        assert len(counted) == 2


def test_the_rates_of_stochastic_depth_make_no_graph_of_their_own(counted):
    model = classifier(CASES["lora-corrected"], vit(depth=4), drop_path=0.3).compile_blocks().train()
    model(batch()[0])
    assert len(counted) == 2  # of the first block, which is never left out, and of the other three


def test_a_linear_probe_has_nothing_to_compile(counted):
    model = classifier(CASES["linear_probe-corrected"]).compile_blocks()
    assert not model.compiled
    model(batch()[0])
    assert not counted


def test_noise_of_a_compiled_model_goes_on_from_a_saved_state():
    model = randomise(classifier(CASES["pvera-corrected"])).compile_blocks().train()
    images, _ = batch(4)
    [noise] = {edit.noise for edit in edits(model)}
    state = noise.get_state()
    first = model(images)
    assert (model(images) - first).abs().max() > 1e-3
    noise.set_state(state)
    torch.testing.assert_close(model(images), first)


def test_no_compiler_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"compile=true needs a C\+\+ compiler, found neither"):
        compilation.check(torch.device("cpu"))


@pytest.mark.slow
def test_a_compiled_run_ends_with_the_figures_of_a_plain_one(tmp_path):
    """With inductor and the C++ compiler, in processes of their own."""
    words = ["task=extra/digits", "backbone=test_vit", "image_size=32", "adapter=pvera", "adapter.lr=1e-3", "adapter.layers=[4,5]",
             "trainer.epochs=2", "source.test_limit=150", "seed=[0,1]"]  # fmt: skip
    for fast in ("false", "true"):
        command = [sys.executable, "-m", "pvera", *words, f"compile={fast}", f"results={tmp_path / fast}"]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    plain, fast = ({row.seed: row for row in store.read_all(tmp_path / name)} for name in ("false", "true"))
    assert plain.keys() == fast.keys() == {0, 1}
    for seed, row in fast.items():
        assert row.device == f"{plain[seed].device}, torch.compile"
        assert row.digest == plain[seed].digest
        assert row.test["nll"] == pytest.approx(plain[seed].test["nll"], abs=1e-4)
