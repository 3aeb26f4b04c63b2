"""precision=auto takes what the machine is fast in, and the run is the one that names it."""

import pytest
import torch
from hydra import compose, initialize_config_module

from pvera.config import register, to_runs
from pvera.models import precision
from pvera.models.classifier import trainable
from tests.helpers import models
from tests.helpers.command import run as run_command

X86 = {"fpu", "avx2", "avx512f"}


def run(*overrides: str):
    register()
    with initialize_config_module("configs", version_base="1.3"):
        return to_runs(compose("config", overrides=["adapter=lora", "backbone=test_vit", *overrides]))[0]


@pytest.fixture
def processor(monkeypatch):
    """Sets the features of the processor."""

    def has(*flags: str) -> None:
        monkeypatch.setattr(precision, "cpu_flags", lambda: X86 | set(flags))
        precision.has_bf16.cache_clear()

    yield has
    precision.has_bf16.cache_clear()


def test_auto_follows_the_processor(processor):
    named = {name: run(f"precision={name}").settings() for name in ("fp32", "bf16")}
    for flags, expected in (([], "fp32"), (["avx512_bf16"], "bf16"), (["amx_bf16"], "bf16"), (["bf16"], "bf16")):
        processor(*flags)
        chosen = run("precision=auto", "device=cpu")
        assert chosen.precision == expected
        assert chosen.settings() == named[expected]


def test_auto_asks_the_gpu_first(processor, monkeypatch):
    processor()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert run("precision=auto").precision == "bf16"
    assert run("precision=auto", "device=cpu").precision == "fp32"


def test_the_features_of_this_processor_are_read(tmp_path):
    assert all(flag.isascii() and " " not in flag for flag in precision.cpu_flags())
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert "avx512f" in precision.cpu_flags()


@pytest.mark.parametrize(("bf16", "mode", "plain"), [(True, True, True), (True, False, False), (False, True, False)])
def test_attention_is_plain_where_its_backward_pass_is_the_faster_one(bf16, mode, plain):
    model = models.classifier(models.adapter("lora"), bf16=bf16).train(mode)
    assert [block.attn.fused_attn for block in model.backbone.blocks] == [not plain] * models.DEPTH


def test_both_kinds_of_attention_train_alike():
    (images, labels), gradients = models.batch(), []
    for mode in (True, False):
        model = models.randomise(models.classifier(models.adapter("lora"), bf16=True)).train(mode)
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        gradients.append(torch.cat([p.grad.flatten() for _, p in trainable(model)]))
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.05 * float(gradients[0].abs().max()))


def test_freed_memory_that_is_kept_is_not_counted_as_used():
    code = (
        "import pvera, torch; from pvera.models import resources as r; cpu = torch.device('cpu'); r.keep_freed_memory();"
        "r.reset_peak_memory(cpu);"
        "before = r.memory(cpu); x = torch.ones(50_000_000); used = r.memory(cpu) - before; del x; r.reset_peak_memory(cpu);"
        "print(used > 150e6, r.memory(cpu) - before < 50e6, r.peak_memory(cpu) - before < 50e6)"
    )
    assert run_command(code=code).stdout.split() == ["True"] * 3
