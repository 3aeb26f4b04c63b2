"""The measurements of `make bench`, each alternating with the one that it is compared to."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from pvera.models import precision
from pvera.models.data import Data
from pvera.models.predict import eval_batch, logits_of
from pvera.training.loop import losses
from scripts.benchmarks import profile as shares
from scripts.benchmarks.arithmetic import Peak, backbone_flops
from scripts.benchmarks.plain import Jpegs, Plain, endless
from scripts.benchmarks.subject import BATCH, Subject
from scripts.benchmarks.timing import Times, alternate

#: The harness at its fastest, once it has compiled; `compiling` measures the compilation.
COMPILE = ["compile=true"]


@dataclass
class Measurement:
    """One line of the table. `goal` is a lower bound on `value`, or an upper bound if `upper`; None if there is no goal."""

    name: str
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
    """The precision in which this machine is fast."""
    return precision.auto("auto")


def goal(cpu: float, gpu: float) -> float:
    """The goal on this kind of machine."""
    return gpu if torch.cuda.is_available() else cpu


def arithmetic(name: str, subject: Subject, flops: float, times: Times, peak: Peak, aim: float, text: str = "") -> Measurement:
    """Operations per second of some work, against those that the machine reaches at the same shapes in `times`."""
    reached, most = flops / 1e9, times.rate(peak.flops) / 1e9
    text += f"{reached:.0f} of {most:.0f} GFLOP/s"
    return Measurement(name, f"{subject.run.precision} peak at the layers' shapes", 100 * reached / most, "%", text, aim)


def in_process(code: str, *arguments: str, **environment: str) -> float:
    """The number that the code prints in a process of its own, where the names of the subject's module are known."""
    command = [sys.executable, "-c", f"import sys; from scripts.benchmarks.subject import *\n{code}", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment).stdout)


def training() -> Iterator[Measurement]:
    """Training with three grid points: against the plain loop, and its arithmetic against the machine's."""
    steps = 3  # so that the cost of an epoch is shared as in a real one
    subject = Subject(precision=fastest(), overrides=COMPILE)
    data, peak = subject.prepared(steps * BATCH), subject.peak(BATCH * (subject.size // 14) ** 2 + BATCH, backward=True)
    whole = Subject(points=1).run.backbone
    loops = [Plain(whole.create(subject.size), lr, subject.run.task.classes, subject.device) for lr in (1e-3, 1e-4, 1e-5)]
    batches = endless(Jpegs(2 * BATCH, subject.size, subject.run.task.classes), BATCH)
    times = alternate({
        "plain": lambda: [plain.steps(batches, steps) for plain in loops],
        "packed": lambda: subject.epoch(data),
        "peak": peak,
    })  # fmt: skip
    images = 3 * steps * BATCH
    yield Measurement(
        "training, 3 grid points", "plain loop: timm, PEFT's PVeRA, fp32, JPEG decoded every epoch",
        times["plain"].median / times["packed"].median, "x",
        f"{times['packed'].text(images)} images/s in {subject.run.precision}, compiled, plain {times['plain'].text(images)}", goal(4, 10),
    )  # fmt: skip
    _, flops = backbone_flops(whole.create(subject.size).to(subject.device), 1, subject.size)
    yield arithmetic("training arithmetic, frozen backbone alone", subject, times["packed"].rate(images * flops), times["peak"], peak, 50)


def evaluation() -> Iterator[Measurement]:
    """The arithmetic of evaluating PVeRA."""
    subject, images = Subject(precision=fastest(), points=1, overrides=COMPILE), 96
    data, peak = subject.data(images), subject.peak(4112, backward=False)
    times = alternate({"evaluate": lambda: logits_of(subject.learners[0].model, data.images), "peak": peak})
    flops, _ = backbone_flops(subject.run.backbone.create(subject.size).to(subject.device), 1, subject.size)
    text = f"{times['evaluate'].text(images)} images/s, compiled, "
    yield arithmetic("evaluation arithmetic", subject, times["evaluate"].rate(images * flops), times["peak"], peak, 70, text)


def linear_probe() -> Iterator[Measurement]:
    """A hundred epochs on cached features against a loop that runs the backbone on every image of every epoch."""
    subject = Subject(adapter="linear_probe", points=1)
    learner, images = subject.learners[0], subject.data(BATCH)
    features = Data(torch.randn(800, 384), torch.randint(0, 16, (800,)), subject.device)
    classify = torch.nn.functional.cross_entropy

    def plain_step() -> None:
        with torch.no_grad():
            frozen = learner.model.frozen(images.images)
        learner.optimizer.zero_grad()
        classify(learner.model.head(frozen), images.labels).backward()
        learner.optimizer.step()

    def hundred_epochs() -> None:
        for _ in range(100):
            subject.epoch(features)

    times = alternate({"features": hundred_epochs, "plain": plain_step})
    plain, fast = times["plain"].median * 50 * 100, times["features"].median
    yield Measurement(
        "linear probe, 100 epochs of 800 images", "the backbone in every step (one step measured, times 5,000)", plain / fast, "x",
        f"{fast:.2f} s after the features are there, plain {plain:.0f} s", goal=200,
    )  # fmt: skip


def packing() -> Iterator[Measurement]:
    """Nine runs (three seeds of three points) in one pass against the nine one after another."""
    subject = Subject(precision=fastest(), seeds=3)
    data = subject.prepared(2 * BATCH)
    times = alternate({"packed": lambda: subject.epoch(data), "alone": lambda: subject.epoch(data, pack=1)})
    images = 9 * 2 * BATCH
    yield Measurement(
        "9 packed runs", "the 9 trained alone", times["alone"].median / times["packed"].median, "x",
        f"{times['packed'].text(images)} images/s, alone {times['alone'].text(images)}", goal(1, 3),
    )  # fmt: skip


def overhead() -> Iterator[Measurement]:
    """The share of an epoch that is neither forward pass, backward pass nor optimizer."""
    subject, steps = Subject(precision=fastest(), points=1), 4
    data, [learner] = subject.prepared(steps * BATCH), subject.learners
    model, batch, labels = learner.model.train(), data.images[:BATCH].clone(), data.labels[:BATCH].clone()

    def bare() -> None:
        for _ in range(steps):
            learner.optimizer.zero_grad(set_to_none=True)
            torch.stack([*losses(learner, model(batch), labels).values()]).sum().backward()
            learner.optimizer.step()

    times = alternate({"epoch": lambda: subject.epoch(data), "bare": bare})
    shares = [100 * (1 - bare / epoch) for epoch, bare in zip(times["epoch"].seconds, times["bare"].seconds, strict=True)]
    yield Measurement(
        "time of an epoch outside the model", "the epoch", 100 * (1 - times["bare"].median / times["epoch"].median), "%",
        f"by pair {min(shares):.1f} to {max(shares):.1f} %", goal(3, 5), upper=True,
    )  # fmt: skip


def memory() -> Iterator[Measurement]:
    """Peak memory of one run's training step and of three packed, each in a process of its own."""
    code = (
        "s = Subject(points=int(sys.argv[1]), precision=sys.argv[2]); d = s.data(BATCH);"
        "resources.reset_peak_memory(s.device); s.epoch(d); print(resources.peak_memory(s.device) / 2**20)"
    )
    one, three = (in_process(code, points, fastest()) for points in "13")
    yield Measurement("peak memory of 3 packed points", "of one point", three / one, "x", f"{three:.0f} MiB, one {one:.0f} MiB")


def scaling() -> Iterator[Measurement]:
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
        yield Measurement(f"training, {name}", f"{subject.size} px, fp32", 1000 * times[name].median / images, "ms/image", "")


def test_set() -> Iterator[Measurement]:
    """Milliseconds of evaluation for one image, by the number of images."""
    subject = Subject(size=70, points=1)
    sizes = {count: subject.data(count).images for count in (100, 400, 1600)}
    model = subject.learners[0].model
    times = alternate({str(count): lambda images=images: logits_of(model, images) for count, images in sizes.items()})  # type: ignore[misc]
    for count in sizes:
        yield Measurement(f"evaluation of {count} images", "70 px, fp32", 1000 * times[str(count)].median / count, "ms/image", "")


def compiling() -> Iterator[Measurement]:
    """torch.compile of the adapted blocks in training and in testing, and after how many images its compilation has paid for itself."""
    eager, compiled = Subject(precision=fastest()), Subject(precision=fastest(), overrides=COMPILE)
    data, images = eager.prepared(BATCH), eager.data(3 * eval_batch(eager.learners[0].model)).images
    works: dict[str, tuple[int, Callable[[Subject], object]]] = {
        "training, 3 grid points": (3 * BATCH, lambda subject: subject.epoch(data)),
        "testing": (len(images), lambda subject: logits_of(subject.learners[0].model, images)),
    }
    for name, (count, work) in works.items():
        first = _first_pass(name)
        times = alternate({"eager": lambda: work(eager), "compiled": lambda: work(compiled)})  # noqa: B023
        gain = times["eager"].median - times["compiled"].median
        paid = f"pays after {count * first / gain:,.0f} images" if gain > 0 else "never pays"
        yield Measurement(
            f"compile=true, {name}", "compile=false", times["eager"].median / times["compiled"].median, "x",
            f"{times['compiled'].text(count)} images/s, without {times['eager'].text(count)}; "
            f"first pass {first:.0f} s with nothing in torch's cache: {paid}",
        )  # fmt: skip


def _first_pass(name: str) -> float:
    """Seconds of the first pass of three packed points, or of the first test batch, in a process of its own without torch's cache."""
    code = (
        "import time; from pvera.models.predict import eval_batch, logits_of;"
        "s = Subject(precision=sys.argv[2], overrides=['compile=true']); m = s.learners[0].model; test = sys.argv[1] == 'testing';"
        "d = s.prepared(eval_batch(m) if test else BATCH); start = time.perf_counter();"
        "logits_of(m, d.images) if test else s.epoch(d); print(time.perf_counter() - start)"
    )
    with tempfile.TemporaryDirectory() as empty:
        return in_process(code, name, fastest(), TORCHINDUCTOR_CACHE_DIR=empty)


def profile() -> Iterator[Measurement]:
    """Where the time of a step goes."""
    for name, seconds, by_kind in shares.measure():
        text = ", ".join(f"{kind} {share:.0f} %" for kind, share in by_kind.items())
        yield Measurement(
            f"profile of a {name}", "matrix products other than attention's", by_kind["matrix products"], "%", f"{seconds:.2f} s: {text}"
        )


MEASUREMENTS: dict[str, Callable[[], Iterator[Measurement]]] = {
    function.__name__: function
    for function in (training, evaluation, linear_probe, packing, overhead, memory, test_set, compiling, profile, scaling)
}
