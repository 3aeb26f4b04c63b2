"""The figures of `make bench`, each measured side by side with what it is compared to."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from pvera.models import precision
from pvera.models.predict import eval_batch, logits_of
from pvera.training import loop
from scripts.benchmarks import profile as shares
from scripts.benchmarks.arithmetic import Peak, backbone_flops
from scripts.benchmarks.plain import Jpegs, Plain, endless
from scripts.benchmarks.subject import BATCH, Subject
from scripts.benchmarks.timing import alternate

#: The harness at its fastest, once it has compiled; `compiling` says what that takes.
COMPILE = ["compile=true"]


@dataclass
class Figure:
    """One line of the table. `goal` is a bound on `value`: at least it, or at most it if `upper`; None where none is set."""

    what: str
    against: str
    value: float
    unit: str
    detail: str
    goal: float | None = None
    upper: bool = False

    @property
    def reached(self) -> bool | None:
        return None if self.goal is None else (self.value <= self.goal) == self.upper or self.value == self.goal


def fastest() -> str:
    """The precision that this machine is fast in."""
    return precision.auto("auto")


def goal(cpu: float, gpu: float) -> float:
    """The goal of the kind of machine that this is."""
    return gpu if torch.cuda.is_available() else cpu


def training() -> Iterator[Figure]:
    """Training with three grid points: against the plain loop, and its arithmetic against the machine's."""
    steps = 3  # so that what an epoch costs once does not count as if each step cost it
    subject = Subject(precision=fastest(), overrides=COMPILE)
    data, rows = subject.prepared(steps * BATCH), BATCH * (subject.size // 14) ** 2 + BATCH
    dtype = torch.bfloat16 if subject.run.precision == "bf16" else torch.float32
    peak = Peak(384, rows, dtype, subject.device, backward=True)
    whole = Subject(points=1).run.backbone
    plain = [Plain(whole.create(subject.size), lr, subject.run.task.classes, subject.device) for lr in (1e-3, 1e-4, 1e-5)]
    batches = endless(Jpegs(2 * BATCH, subject.size, subject.run.task.classes), BATCH)
    times = alternate({
        "plain": lambda: [one.steps(batches, steps) for one in plain],
        "packed": lambda: subject.epoch(data),
        "peak": peak,
    })  # fmt: skip
    images = 3 * steps * BATCH
    rates = {name: times[name].rate(images) for name in ("plain", "packed")}
    yield Figure(
        "training, 3 grid points", "plain loop: timm, PEFT's PVeRA, fp32, JPEG decoded every epoch", rates["packed"] / rates["plain"], "x",
        f"{rates['packed']:.2f} images/s ({times['packed'].spread(images)}) in {subject.run.precision}, compiled, "
        f"plain {rates['plain']:.2f} ({times['plain'].spread(images)})", goal(4, 10),
    )  # fmt: skip
    _, flops = backbone_flops(whole.create(subject.size).to(subject.device), 1, subject.size)
    found, most = times["packed"].rate(images * flops) / 1e9, times["peak"].rate(peak.flops) / 1e9
    yield Figure(
        "training arithmetic, frozen backbone alone", f"{subject.run.precision} peak at the layers' shapes", 100 * found / most, "%",
        f"{found:.0f} of {most:.0f} GFLOP/s", goal=50,
    )  # fmt: skip


def evaluation() -> Iterator[Figure]:
    """The arithmetic of evaluating PVeRA."""
    subject, images = Subject(precision=fastest(), points=1, overrides=COMPILE), 96
    data = subject.data(images)
    dtype = torch.bfloat16 if subject.run.precision == "bf16" else torch.float32
    peak = Peak(384, 4112, dtype, subject.device, backward=False)
    times = alternate({"evaluate": lambda: logits_of(subject.learners[0].model, data.images), "peak": peak})
    flops, _ = backbone_flops(subject.run.backbone.create(subject.size).to(subject.device), 1, subject.size)
    found, most = times["evaluate"].rate(images * flops) / 1e9, times["peak"].rate(peak.flops) / 1e9
    yield Figure(
        "evaluation arithmetic", f"{subject.run.precision} peak at the layers' shapes", 100 * found / most, "%",
        f"{times['evaluate'].rate(images):.1f} images/s, compiled ({times['evaluate'].spread(images)}), "
        f"{found:.0f} of {most:.0f} GFLOP/s", goal=70,
    )  # fmt: skip


def linear_probe() -> Iterator[Figure]:
    """A hundred epochs on cached features against a loop that runs the backbone on every image of every epoch."""
    subject = Subject(adapter="linear_probe", points=1)
    one, images = subject.learners[0], subject.data(BATCH)
    features = loop.Data(torch.randn(800, 384), torch.randint(0, 16, (800,)), subject.device)
    classify = torch.nn.functional.cross_entropy

    def plain_step() -> None:
        with torch.no_grad():
            frozen = one.model.frozen(images.images)
        one.optimizer.zero_grad()
        classify(one.model.head(frozen), images.labels).backward()
        one.optimizer.step()

    def hundred_epochs() -> None:
        for _ in range(100):
            subject.epoch(features)

    times = alternate({"features": hundred_epochs, "plain": plain_step})
    plain, fast = times["plain"].median * 50 * 100, times["features"].median
    yield Figure(
        "linear probe, 100 epochs of 800 images", "the backbone in every step (one step measured, times 5,000)", plain / fast, "x",
        f"{fast:.2f} s after the features are there, plain {plain:.0f} s", goal=200,
    )  # fmt: skip


def packing() -> Iterator[Figure]:
    """Nine runs (three seeds of three points) in one pass against the nine one after another."""
    subject = Subject(precision=fastest(), seeds=3)
    data = subject.prepared(2 * BATCH)
    times = alternate({"packed": lambda: subject.epoch(data), "alone": lambda: subject.epoch(data, pack=1)})
    images = 9 * 2 * BATCH
    yield Figure(
        "9 packed runs", "the 9 trained alone", times["alone"].median / times["packed"].median, "x",
        f"{times['packed'].rate(images):.2f} images/s ({times['packed'].spread(images)}), "
        f"alone {times['alone'].rate(images):.2f} ({times['alone'].spread(images)})", goal(1, 3),
    )  # fmt: skip


def overhead() -> Iterator[Figure]:
    """What of an epoch is neither forward nor backward pass nor optimizer."""
    subject, steps = Subject(precision=fastest(), points=1), 4
    data, [one] = subject.prepared(steps * BATCH), subject.learners
    model, batch, labels = one.model.train(), data.images[:BATCH].clone(), data.labels[:BATCH].clone()

    def bare() -> None:
        for _ in range(steps):
            one.optimizer.zero_grad(set_to_none=True)
            one.losses(model(batch), labels).sum().backward()
            one.optimizer.step()

    times = alternate({"epoch": lambda: subject.epoch(data), "bare": bare})
    shares = [100 * (1 - bare / epoch) for epoch, bare in zip(times["epoch"].seconds, times["bare"].seconds, strict=True)]
    yield Figure(
        "time of an epoch outside the model", "the epoch", 100 * (1 - times["bare"].median / times["epoch"].median), "%",
        f"by pair {min(shares):.1f} to {max(shares):.1f} %", goal(3, 5), upper=True,
    )  # fmt: skip


def memory() -> Iterator[Figure]:
    """Peak memory of one run's training step and of three packed, each in a process of its own."""
    code = (
        "import sys; from benchmarks.subject import *; s = Subject(points=int(sys.argv[1]), precision=sys.argv[2]); d = s.data(BATCH);"
        "resources.reset_peak_memory(s.device); s.epoch(d); print(resources.peak_memory(s.device))"
    )
    peak = {
        points: int(subprocess.run([sys.executable, "-c", code, str(points), fastest()], check=True, capture_output=True, text=True).stdout)
        for points in (1, 3)
    }
    yield Figure(
        "peak memory of 3 packed points",
        "of one point",
        peak[3] / peak[1],
        "x",
        f"{peak[3] / 2**20:.0f} MiB, one {peak[1] / 2**20:.0f} MiB",
    )


def scaling() -> Iterator[Figure]:
    """Milliseconds of training for one image, by the number of runs in the pack, tokens, rank and backbone."""
    cases = {
        f"{points * seeds} runs in a pack": Subject(size=112, points=points, seeds=seeds)
        for points, seeds in ((1, 1), (2, 1), (2, 2), (2, 4))
    }
    cases |= {f"{size} px, {(size // 14) ** 2 + 1} tokens": Subject(size=size, points=1) for size in (70, 112, 168, 224)}
    cases |= {f"rank {rank}": Subject(size=112, points=1, overrides=[f"adapter.rank={rank}"]) for rank in (16, 64, 256)}
    cases |= {name: Subject(size=112, points=1, backbone=name) for name in ("dinov2_vits14", "dinov2_vitb14")}
    if torch.cuda.is_available():
        cases["dinov2_vitl14"] = Subject(size=112, points=1, backbone="dinov2_vitl14")
    ready = {name: (subject, subject.prepared(BATCH)) for name, subject in cases.items()}
    times = alternate({name: lambda pair=pair: pair[0].epoch(pair[1]) for name, pair in ready.items()})  # type: ignore[misc]
    for name, (subject, _) in ready.items():
        images = BATCH * len(subject.learners)
        yield Figure(f"training, {name}", f"{subject.size} px, fp32", 1000 * times[name].median / images, "ms/image", "")


def test_set() -> Iterator[Figure]:
    """Milliseconds of evaluation for one image, by the number of images."""
    subject = Subject(size=70, points=1)
    sizes = {count: subject.data(count).images for count in (100, 400, 1600)}
    model = subject.learners[0].model
    times = alternate({str(count): lambda images=images: logits_of(model, images) for count, images in sizes.items()})  # type: ignore[misc]
    for count in sizes:
        yield Figure(f"evaluation of {count} images", "70 px, fp32", 1000 * times[str(count)].median / count, "ms/image", "")


def compiling() -> Iterator[Figure]:
    """torch.compile of the adapted blocks in training and in testing, and after how many images its compilation has paid for itself."""
    eager, compiled = Subject(precision=fastest()), Subject(precision=fastest(), overrides=COMPILE)
    data, images = eager.prepared(BATCH), eager.data(3 * eval_batch(eager.learners[0].model)).images
    works: dict[str, tuple[int, Callable[[Subject], object]]] = {
        "training, 3 grid points": (3 * BATCH, lambda subject: subject.epoch(data)),
        "testing": (len(images), lambda subject: logits_of(subject.learners[0].model, images)),
    }
    for what, (count, work) in works.items():
        first = _first_pass(what)
        times = alternate({"eager": lambda: work(eager), "compiled": lambda: work(compiled)})  # noqa: B023
        gain = times["eager"].median - times["compiled"].median
        paid = f"pays after {count * first / gain:,.0f} images" if gain > 0 else "never pays"
        yield Figure(
            f"compile=true, {what}", "compile=false", times["eager"].median / times["compiled"].median, "x",
            f"{times['compiled'].rate(count):.1f} images/s ({times['compiled'].spread(count)}), without {times['eager'].rate(count):.1f} "
            f"({times['eager'].spread(count)}); first pass {first:.0f} s with nothing in torch's cache: {paid}",
        )  # fmt: skip


def _first_pass(what: str) -> float:
    """Seconds of the first pass of three packed points, or of the first test batch, in a process of its own without torch's cache."""
    code = (
        "import sys, time; from benchmarks.subject import *; from pvera.evaluate import eval_batch, logits_of;"
        "s = Subject(precision=sys.argv[2], overrides=['compile=true']); m = s.learners[0].model; test = sys.argv[1] == 'testing';"
        "d = s.prepared(eval_batch(m) if test else BATCH); start = time.perf_counter();"
        "logits_of(m, d.images) if test else s.epoch(d); print(time.perf_counter() - start)"
    )
    with tempfile.TemporaryDirectory() as empty:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": empty}
        command = [sys.executable, "-c", code, what, fastest()]
        return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def profile() -> Iterator[Figure]:
    """Where the time of a step goes."""
    for what, seconds, found in shares.measure():
        said = ", ".join(f"{kind} {share:.0f} %" for kind, share in found.items())
        yield Figure(
            f"profile of a {what}", "matrix products beside attention's", found["matrix products"], "%", f"{seconds:.2f} s: {said}"
        )


FIGURES: dict[str, Callable[[], Iterator[Figure]]] = {
    one.__name__: one for one in (training, evaluation, linear_probe, packing, overhead, memory, test_set, compiling, profile, scaling)
}
