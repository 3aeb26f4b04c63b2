"""What differs on a CUDA device: `pytest -m gpu`. PVERA_TEST_DEVICE=cpu runs the same bodies on a CPU, where there is none."""

import gc
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapters.injection import edits
from pvera.config import Protocol, Trainer
from pvera.evaluators.mean import softmax_of
from pvera.evaluators.trained import reopen
from pvera.models import checkpoint, ood_scores, resources
from pvera.models.classifier import hold_in_bf16, trainable
from pvera.models.data import Data
from pvera.models.monte_carlo import predict
from pvera.models.predict import logits_of
from pvera.rows import store
from pvera.sweeps.execute import execute
from pvera.training.learner import Learner
from pvera.training.loop import fit, losses, train_epoch
from pvera.training.packing import Packing, fitting
from tests.helpers import models
from tests.helpers.segmentation import folder
from tests.training.test_progress import GRID, TINY, figures, interrupted, make

NAME = os.environ.get("PVERA_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("hydra"),
    pytest.mark.skipif(NAME == "cuda" and not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

#: The eight, and one of PEFT's types whose dropout draws on the CPU wherever the model is.
CONTRACT = {name: models.CASES[f"{name}-corrected"] for name in models.EIGHT}
CONTRACT["peft"] = models.adapter("peft", type="LOHA", config={"r": 4, "rank_dropout": 0.5})
PVERA = CONTRACT["pvera"]


@pytest.fixture
def device() -> torch.device:
    return resources.device(NAME)


@pytest.fixture
def deterministic(monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def learners(device: torch.device, new=PVERA, count: int = 1, backbone=None, **trainer) -> list[Learner]:
    """Models of several seeds on one backbone."""
    backbone = backbone or models.vit().to(device)
    settings = Trainer(**{"batch_size": 4, "head_lr": 1e-2, "epochs": 2} | trainer)
    own = replace(new, lr=1e-2)
    made = [models.classifier(own, backbone, seed, drop_path=settings.drop_path) for seed in range(count)]
    return [Learner(model, own, settings, Protocol(), seed) for seed, model in enumerate(made)]


def data(device: torch.device, count: int = 12) -> Data:
    return Data(*models.batch(count), device)


@pytest.mark.parametrize("new", CONTRACT.values(), ids=CONTRACT)
def test_an_adapter_keeps_its_contract(device, new):
    backbone, images = models.vit().to(device), models.batch()[0].to(device)
    model, same = models.classifier(new, backbone), models.classifier(new, backbone)
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {device.type}
    assert torch.equal(models.logits(model, images), models.logits(models.probe(model).to(device), images))  # the identity
    before, state = {name: value.clone() for name, value in backbone.state_dict().items()}, torch.get_rng_state()
    assert torch.equal(models.train(model, new)(images), models.train(same, new)(images))  # noise is the model's own
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for _, parameter in trainable(model))
    on_cpu = models.classifier(new)
    checkpoint.load(on_cpu, {name: parameter.detach().cpu() for name, parameter in trainable(model)}, "it")
    expected = models.logits(on_cpu, images.cpu())
    torch.testing.assert_close(models.logits(model, images).cpu(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits_of(model, images.cpu()).cpu(), expected, atol=1e-4, rtol=1e-4)  # merged, from images on a CPU


@pytest.mark.parametrize("name", ["pvera", "dora", "adaptformer"])
def test_a_pack_trains_as_its_members_alone(device, name):
    together, alone = (learners(device, CONTRACT[name], 3, drop_path=0.4) for _ in range(2))
    for _ in range(3):
        packed = train_epoch(together, data(device, 10), lambda _: None)
        for one, learner in zip(packed, alone, strict=True):
            assert one == pytest.approx(train_epoch([learner], data(device, 10), lambda _: None)[0], abs=1e-4, rel=1e-4)


#: Every step that may not wait: the eight, and what else draws, solves or checks in a step.
STEPS = CONTRACT | {name: models.CASES[name] for name in ("pvera-laplace", "pvera-student_t", "pvera-mixture", "oft-corrected")}
STEPS["dropout"] = models.adapter("lora", dropout=0.2)
del STEPS["peft"]  # its type draws on the CPU


@pytest.mark.parametrize("new", STEPS.values(), ids=STEPS)
def test_no_step_of_an_epoch_waits_for_the_device(device, new):
    pack, done = learners(device, new, 2, drop_path=0.4), []

    def watch(images: int) -> None:
        """From the end of the first step to that of the last; an epoch begins and ends with a copy."""
        done.append(images)
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error" if len(done) < 3 else "default")

    try:
        train_epoch(pack, data(device), watch)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert done == [8, 8, 8]


def test_bf16_trains_as_fp32_within_its_precision(device):
    losses = []
    for bf16 in (True, False):
        backbone = models.vit().to(device)
        model = models.classifier(PVERA, hold_in_bf16(backbone) if bf16 else backbone, bf16=bf16)
        one = Learner(model, replace(PVERA, lr=1e-2), Trainer(batch_size=4, head_lr=1e-2), Protocol(), 0)
        losses.append([train_epoch([one], data(device), lambda _: None)[0]["cross_entropy"] for _ in range(3)])
        assert {parameter.dtype for _, parameter in trainable(model)} == {torch.float32}
    assert losses[0] == pytest.approx(losses[1], rel=0.05) and losses[0] != losses[1]


def test_compiled_blocks_train_as_the_others(device):
    """With inductor, and with noise of the latent and of stochastic depth in the graph."""
    torch.compiler.reset()
    plain, compiled = (learners(device, count=2, drop_path=0.4) for _ in range(2))
    for learner in compiled:
        learner.model.compile_blocks()
    for _ in range(2):  # three steps and a short batch
        expected = train_epoch(plain, data(device, 14), lambda _: None)
        for one, other in zip(train_epoch(compiled, data(device, 14), lambda _: None), expected, strict=True):
            assert one == pytest.approx(other, abs=1e-3, rel=1e-3)


def test_an_interrupted_run_ends_bit_for_bit_as_if_it_had_not_been(tmp_path, monkeypatch, deterministic):
    words = [*GRID, "seed=[0,1]", f"device={NAME}"]
    execute(make(*words, f"results={tmp_path / 'whole'}"))
    runs = make(*words, f"results={tmp_path / 'stopped'}")
    interrupted(monkeypatch, runs, 2)
    execute(runs)
    assert figures(tmp_path / "stopped") == figures(tmp_path / "whole")


@pytest.mark.parametrize(("first", "then"), [(NAME, "cpu"), ("cpu", NAME)])
def test_a_resume_file_of_one_device_goes_on_on_another(tmp_path, monkeypatch, first, then):
    words = [*GRID, f"results={tmp_path}"]
    interrupted(monkeypatch, make(*words, f"device={first}"), 2)
    [done] = execute(make(*words, f"device={then}"))
    row, others = store.read(done.path), {first, then} - {"cpu"}
    assert [entry["epochs"] for entry in row.grid] == [3, 3]
    assert any(re.match("continued after 2 epochs with another .*device", event) for event in row.events) == bool(others)


@pytest.mark.parametrize(("first", "then"), [(NAME, "cpu"), ("cpu", NAME)])
def test_a_checkpoint_of_one_device_is_tested_on_another(tmp_path, first, then):
    [done] = execute(make(*GRID, f"results={tmp_path}", f"device={first}"))
    expected = torch.from_numpy(store.load_probabilities(done.path)[0]).double()
    torch.testing.assert_close(softmax_of(reopen(done.path, device=then)), expected, atol=1e-4, rtol=1e-3)


@contextmanager
def at_most(more: int, device: torch.device) -> Iterator[None]:
    """No more than so many bytes beside those that are in use."""
    gc.collect()
    resources.release_memory()
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + more) / total, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    else:
        before = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_pack_that_does_not_fit_is_halved_until_it_does(device):
    """At a real limit. What the step that failed had computed must be free again, or no smaller pack would fit either."""
    wide = models.vit(img_size=128, embed_dim=128, num_heads=4).to(device)  # 257 tokens
    size, generator = 8, torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size, 128, 128, 3), dtype=torch.uint8, generator=generator)
    images = Data(pixels, torch.randint(0, models.CLASSES, (size,), generator=generator), device)
    pack = learners(device, PVERA, 8, wide, batch_size=size)
    resources.reset_peak_memory(device)
    before = resources.memory(device)
    train_epoch(learners(device, PVERA, 2, wide, batch_size=size), images, lambda _: None)
    needed, packing = resources.peak_memory(device) - before, Packing(8)
    with at_most(int(1.6 * needed), device):  # two fit and eight do not, whatever freed memory a process keeps
        fit([pack], images, packing=packing)
    assert 2 <= packing.size <= 4 and pack[0].events[0] == "out of memory in epoch 1: from 8 in one pass to 4"
    [alone] = learners(device, PVERA, 1, wide, batch_size=size)
    fit([[alone]], images)
    for (name, mine), (_, other) in zip(trainable(pack[0].model), trainable(alone.model), strict=True):
        torch.testing.assert_close(mine, other, atol=2e-3, rtol=1e-2, msg=lambda text, name=name: f"{name}: {text}")


def test_the_size_of_a_pack_follows_the_free_memory(device, monkeypatch):
    pack = learners(device, count=4)
    assert fitting(pack, data(device), losses) == 4
    monkeypatch.setattr(resources, "free_memory", lambda _: 1)
    assert fitting(pack, data(device), losses) == 1
    assert all(edit.kl is None for edit in edits(pack[0].model))


def start(module: str, *words: str) -> subprocess.Popen:
    """A command in a new process: CUDA cannot go on in the fork of one that has used it."""
    return subprocess.Popen([sys.executable, "-m", module, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_workers_share_one_device(tmp_path):
    """Two sweeps at once in one folder: each run is trained once, and its figures are those of a single worker within rounding."""
    words = ["-m", *TINY, "adapter=lora", "adapter.rank=2", "seed=0,1,2,3", f"device={NAME}", f"results={tmp_path / 'two'}"]
    workers = [start("pvera", *words) for _ in range(2)]
    said = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    for path in sorted((tmp_path / "two").rglob("seed=*.json")):
        row = store.read(path)
        [done] = execute(make("adapter=lora", "adapter.rank=2", f"seed={row.seed}", f"device={NAME}", f"results={tmp_path / 'one'}"))
        assert store.read(done.path).val_loss == pytest.approx(row.val_loss, rel=1e-3)
    assert len(list((tmp_path / "two").rglob("seed=*.json"))) == 4


def test_scores_and_sampled_passes_agree_with_a_cpu(device):
    model, on_cpu = (models.randomise(models.classifier(PVERA, models.vit().to(place))) for place in (device, torch.device("cpu")))
    images = models.batch(12)[0]
    (mine, norms), (theirs, their_norms) = (ood_scores.scores(one, images, 4, 0) for one in (model, on_cpu))
    assert mine["energy"] == pytest.approx(theirs["energy"], rel=1e-4)
    assert norms[1] == pytest.approx(their_norms[1], rel=1e-4)
    few, many = (predict(model, images, samples, 0).mean for samples in (1, 200))
    assert not torch.equal(few, many)
    # Their noise differs: the means of 200 passes agree within their error.
    torch.testing.assert_close(many, predict(on_cpu, images, 200, 1).mean, atol=0.05, rtol=0)


def test_segmentation_trains(tmp_path):
    words = ["--data", str(folder(tmp_path / "pairs")), "adapter=pvera", "adapter.lr=1e-2", "backbone=test_vit", "image_size=32"]
    worker = start("pvera.segment", *words, "trainer.epochs=1", f"device={NAME}", f"results={tmp_path / 'rows'}")
    said = worker.communicate(timeout=300)[0]
    assert worker.returncode == 0 and len(list((tmp_path / "rows").rglob("*.json"))) == 1, said
