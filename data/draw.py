"""Which images of somebody's own data train, validate and test: as their folders or splits say, and otherwise by a seeded draw.

A draw is stratified, that is, made in each class by itself. It takes the images of a class in the order of the md5 of seed and name. So it
depends on no library and no listing, an image that is added moves few others, and 8 shots are among the 16 of the same seed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import md5

from data.errors import DataError
from data.kinds import OwnTask

Item = tuple[str, int]
"""An image by its name, which is unique, and its label."""
ROLES = {"train800": "training", "val200": "validation", "train1000": "training and validation", "test": "test"}
"""What the images of a split are for."""


def assign(pools: Mapping[str, Sequence[Item]], task: OwnTask, where: str) -> dict[str, list[Item]]:
    """The images of train800, val200, train1000 and test, in an order that mixes the classes.

    `pools` are the images that are there, under train and perhaps val and test. `where` names the data in messages. Raises DataError for
    a class with too few images.
    """
    by_class: dict[int, list[Item]] = defaultdict(list)
    for item in sorted(pools["train"], key=lambda item: _rank(item, f"{task.draw} ")):
        by_class[item[1]].append(item)
    given = {split: list(pools[pool]) for split, pool in (("val200", "val"), ("test", "test")) if pool in pools}
    if task.shots:
        given.pop("val200", None)
    drawn: dict[str, list[Item]] = defaultdict(list)
    for label, items in by_class.items():
        name = task.class_names[label] if label in range(len(task.class_names)) else label
        least = 1 + ("val200" not in given) + ("test" not in given)
        if len(items) < least:
            needed = ", ".join(ROLES[split] for split in ("val200", "test") if split not in given)
            raise DataError(
                f"{where} has {len(items)} images of the class {name}: drawing some for {needed} needs at least {least}; "
                "add images, or take the class away"
            )
        if "test" not in given:
            number = min(max(1, round(task.test_share * len(items))), len(items) - least + 1)
            drawn["test"] += items[:number]
            items = items[number:]
        if task.shots:
            if len(items) < task.shots:
                raise DataError(
                    f"{where} has {len(items)} images of the class {name} to train on, fewer than task.shots={task.shots}: "
                    "add images, or ask for fewer shots"
                )
            items = items[: task.shots]
        if "val200" not in given:
            number = min(max(1, round(task.val_share * len(items))), len(items) - 1)
            drawn["val200"] += items[:number]
            items = items[number:]
        drawn["train800"] += items
    splits = {split: sorted(items, key=_rank) for split, items in (drawn | given).items()}
    return splits | {"train1000": splits["train800"] + splits["val200"]}


def membership(pools: Mapping[str, str], task: OwnTask) -> str:
    """In words, where the images of each role come from. `pools` are the names of those that are there."""
    seed, train = f"the draw of seed {task.draw}", pools["train"]
    parts = [f"{task.shots} images of each class of {train} for training and validation by {seed}"] if task.shots else []
    if "val" not in pools or task.shots:
        parts.append(f"validation {100 * task.val_share:g} % of each class of {'these' if task.shots else train} by {seed}")
    else:
        parts.append(f"validation {pools['val']}")
    parts.append(f"test {pools['test']}" if "test" in pools else f"test {100 * task.test_share:g} % of each class of {train} by {seed}")
    return "; ".join(parts)


def _rank(item: Item, seed: str = "") -> bytes:
    return md5(f"{seed}{item[0]}".encode("utf-8", "surrogateescape")).digest()
