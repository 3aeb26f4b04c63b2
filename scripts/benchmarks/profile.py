"""Where the time goes: the shares of a training step and of a test batch by kind of operation, of torch's profiler."""

from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from pvera.models.predict import logits_of
from scripts.benchmarks.subject import BATCH, Subject

#: A kind, and the starts of the names of its operations (after aten:: or mkldnn::).
KINDS = {
    "matrix products": ("mm", "addmm", "mkldnn_convolution"),
    "attention's products": ("bmm", "baddbmm", "_scaled_dot_product"),
    "fused passes": ("## Call CompiledFxGraph",),
    "casts and copies": ("copy_", "cat", "clone", "fill_"),
    "noise": ("normal_", "uniform_"),
    "gelu": ("gelu",),
    "softmax": ("_softmax",),
}


def shares(work: Callable[[], object], device: torch.device) -> tuple[float, dict[str, float]]:
    """Seconds of one repetition, and the share in per cent of each kind, largest first. Waiting for the GPU counts for none."""
    work()
    on_gpu = device.type == "cuda"
    # The kernels of a GPU have names of their own. The operation that launched them is an event of the CPU, which has their time too.
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
        work()
    times: Counter[str] = Counter()
    for event in (event for event in seen.key_averages() if event.device_type == DeviceType.CPU):
        name = event.key.removeprefix("aten::").removeprefix("mkldnn::")
        kind = next((kind for kind, starts in KINDS.items() if name.startswith(starts)), "the rest")
        times[kind] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return times.total() / 1e6, {kind: 100 * time / times.total() for kind, time in times.most_common()}


def measure() -> Iterator[tuple[str, float, dict[str, float]]]:
    """Name, seconds and shares of a step of three packed points and of a test batch, as they are and compiled."""
    from scripts.benchmarks.measurements import fastest

    for words in ([], ["compile=true"]):
        subject = Subject(precision=fastest(), overrides=words)
        data, how = subject.prepared(BATCH), " compiled" if words else ""
        yield f"training step, 3 points{how}", *shares(lambda: subject.epoch(data), subject.device)  # noqa: B023
        images = subject.data(BATCH).images
        yield f"test batch of {BATCH}{how}", *shares(lambda: logits_of(subject.learners[0].model, images), subject.device)  # noqa: B023
