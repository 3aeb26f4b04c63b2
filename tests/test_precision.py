"""precision=auto takes what the machine is fast in, and the run is the one that names it."""

import pytest
import torch
from hydra import compose, initialize_config_module

from pvera import precision
from pvera.config import register, to_runs

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


@pytest.mark.parametrize(("flags", "expected"), [([], "fp32"), (["avx512_bf16"], "bf16"), (["amx_bf16"], "bf16"), (["bf16"], "bf16")])
def test_auto_follows_the_processor(processor, flags, expected):
    processor(*flags)
    chosen = run("precision=auto", "device=cpu")
    assert chosen.precision == expected
    assert chosen.settings() == run(f"precision={expected}").settings()


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
