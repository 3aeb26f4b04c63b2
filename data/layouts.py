"""The layouts of somebody's own folder: classes as sub-folders, with or without train/ and test/ above them, list files, or CUB's files.

Classes are the names of the sub-folders in their sorted order; of lists, the lines of classes.txt, or the numbers.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from data import lists
from data.draw import Item
from data.errors import DataError
from data.files import files_below

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
CUB = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
#: The pool of each list. Where a folder has both lists of a pool, the last one counts.
LISTS = {"train800.txt": "train", "train.txt": "train", "val200.txt": "val", "val.txt": "val", "test.txt": "test"}
PAGE = "docs/own_images.md shows the layouts"


@dataclass
class Layout:
    """What a folder holds."""

    class_names: list[str]
    pools: dict[str, list[Item]]
    """Images by their paths below the folder, under train and perhaps val and test."""
    names: dict[str, str]
    """What the pools are called in the folder."""
    warnings: list[str]


def read(folder: Path) -> Layout:
    """The layout of a folder. Opens no image. Raises DataError for what is no layout, and for classes that cannot be."""
    there = _listing(folder)
    if all(name in there for name in CUB):
        layout = _cub(folder)
    elif "train.txt" in there or "train800.txt" in there:
        layout = _lists(folder, there)
    else:
        layout = _folders(folder)
    _check(layout, folder)
    return layout


def images_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images in a folder and below it, and the other files there; see `data.files.files_below`."""
    files = files_below(folder)
    images = [path for path in files if path.name.lower().endswith(IMAGE_ENDINGS)]
    return images, [path for path in files if not path.name.lower().endswith(IMAGE_ENDINGS)]


def _listing(folder: Path) -> dict[str, Path]:
    """The content of a folder by name, without what starts with a dot."""
    try:
        return {path.name: path for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error


def _folders(folder: Path) -> Layout:
    """Classes as sub-folders, below folders of splits or right in the folder."""
    known = set[str]().union(*SPLIT_FOLDERS.values())
    folders = [path for path in _listing(folder).values() if path.is_dir()]
    _check_names([path.name for path in folders if path.name.lower() in known], folder, "folders")
    below = {path.name.lower(): path for path in folders}
    splits = {pool: next((below[name] for name in names if name in below), None) for pool, names in SPLIT_FOLDERS.items()}
    train = splits["train"]
    if train is None or not any(path.is_dir() for path in _listing(train).values()):  # a class may be called train
        if len(below) > 1 and below.keys() <= known:
            raise DataError(f"{folder} has the folders {', '.join(below)}, but no folders of classes in train: {PAGE}")
        splits = {"train": folder}
    elif splits["test"] is None and splits["val"] is not None:
        splits = {"train": train, "test": splits["val"]}
    found = {pool: path for pool, path in splits.items() if path is not None}
    warnings = []
    if (unread := sorted({path.name for path in below.values()} - {path.name for path in found.values()})) and folder not in found.values():
        warnings.append(
            f"{folder} has folders beside {', '.join(path.name for path in found.values())} that are not read: {', '.join(unread)}"
        )
    classes: dict[str, dict[str, list[Path]]] = {}
    for pool, path in found.items():
        listing = _listing(path)
        loose = [name for name, file in listing.items() if name.lower().endswith(IMAGE_ENDINGS) and not file.is_dir()]
        if loose:
            warnings.append(f"{path} has {len(loose)} images outside its class folders, which are not read, the first is {loose[0]}")
        classes[pool] = {}
        for name, below_it in listing.items():
            if below_it.is_dir():
                images, others = images_below(below_it)
                if others:
                    warnings.append(
                        f"{below_it} has {len(others)} files of no known image format, which are not read, the first is {others[0].name}"
                    )
                if not images:
                    raise DataError(
                        f"the class {name} is empty, {below_it} has no image ({', '.join(IMAGE_ENDINGS)}): put images there, or delete it"
                    )
                classes[pool][name] = images
    names = sorted(classes["train"])
    if not names:
        raise DataError(f"{found['train']} has no sub-folders of classes, and {folder} no train.txt: {PAGE}")
    _check_names(sorted({name for of_class in classes.values() for name in of_class}), folder)
    for pool in ("val", "test"):
        if unknown := sorted(classes.get(pool, {}).keys() - names):
            raise DataError(
                f"{found[pool]} has the class {unknown[0]}, which {found['train']} lacks: every class needs training images; "
                f"move some there, or take {unknown[0]} away"
            )
    labels = {name: label for label, name in enumerate(names)}
    pools = {
        pool: [(path.relative_to(folder).as_posix(), labels[name]) for name, paths in of_class.items() for path in paths]
        for pool, of_class in classes.items()
    }
    called = {pool: f"{path.name}/" if path != folder else "all images" for pool, path in found.items()}
    return Layout(names, pools, called, warnings)


def _lists(folder: Path, there: dict[str, Path]) -> Layout:
    """Lists of `path label`."""
    names = {pool: name for name, pool in LISTS.items() if name in there}
    named = [line.strip() for line in lists.lines(folder / "classes.txt")] if "classes.txt" in there else None
    pools = {pool: list(lists.entries(folder, name, len(named) if named else None).items()) for pool, name in names.items()}
    numbers = {label for items in pools.values() for _, label in items}
    if not named and max(numbers) >= len(numbers):  # before a list of all numbers is made
        absent = next(number for number in range(len(numbers)) if number not in numbers)
        raise DataError(f"{folder}: labels must be 0, 1, 2, ... without a gap, found {max(numbers)} and no {absent}: number the classes so")
    class_names = named or [str(number) for number in range(max(numbers) + 1)]
    _every_class_is_trained(folder, class_names, pools, names)
    return Layout(class_names, pools, names, [])


def _cub(folder: Path) -> Layout:
    """The files of CUB-200-2011, which NABirds has too: `number path`, `number class`, `number is_train`, `class name`."""
    images, classes, is_train, named = (lists.numbered(folder, name) for name in CUB)
    if odd := [text for text in classes.values() if not text.isdecimal() or text not in named]:
        raise DataError(f"{folder / CUB[1]} names the class {odd[0][:20]!r}, which {CUB[3]} lacks")
    used = sorted(set(classes.values()), key=int)  # NABirds has also classes of classes, without images
    labels = {number: label for label, number in enumerate(used)}
    inside, pools = lists.Inside(folder), {"train": list[Item](), "test": list[Item]()}
    for number, path in images.items():
        if reason := inside.problem(f"images/{path}", os.path.normpath(f"images/{path}")):
            raise DataError(f"{folder / CUB[0]}: images/{path} {reason}")
        if number not in classes or is_train.get(number) not in ("0", "1"):
            raise DataError(f"{folder}: {path} has no line in {CUB[1]}, or none in {CUB[2]} that says 0 or 1")
        pools["train" if is_train[number] == "1" else "test"].append((f"images/{path}", labels[classes[number]]))
    twice = {name for name, count in Counter(named[number] for number in used).items() if count > 1}
    names = [f"{named[number]} ({number})" if named[number] in twice else named[number] for number in used]
    _every_class_is_trained(folder, names, pools, {pool: f"{pool} of {CUB[2]}" for pool in pools})
    return Layout(names, pools, {pool: f"{pool} of {CUB[2]}" for pool in pools}, [])


def _every_class_is_trained(folder: Path, class_names: list[str], pools: dict[str, list[Item]], names: dict[str, str]) -> None:
    """Raises DataError for a class without training images."""
    trained = {label for _, label in pools["train"]}
    for pool in ("val", "test"):
        if unknown := sorted({label for _, label in pools.get(pool, ())} - trained):
            raise DataError(
                f"{folder}: {names[pool]} has the class {class_names[unknown[0]]}, which {names['train']} lacks: "
                "every class needs training images"
            )
    if empty := [name for label, name in enumerate(class_names) if label not in trained]:
        raise DataError(f"{folder}: the class {empty[0]} is empty, {names['train']} has no image of it: take it away, or add images")


def _check(layout: Layout, folder: Path) -> None:
    """Raises DataError for classes that cannot be."""
    names = layout.class_names
    if len(names) == 1:
        raise DataError(
            f"{folder} has one class only, {names[0]}: there is nothing to tell apart; a folder of at least two classes is needed"
        )
    _check_names(names, folder)
    for first, second in combinations(layout.pools, 2):
        if shared := {path for path, _ in layout.pools[first]} & {path for path, _ in layout.pools[second]}:
            named = f"{layout.names[first]} and in {layout.names[second]}"
            raise DataError(f"{min(shared)} is in {named} of {folder}: take it out of one of them")
    tested = {label for _, label in layout.pools.get("test", ())}
    if tested and (absent := [name for label, name in enumerate(names) if label not in tested]):
        layout.warnings.append(f"{folder} has no test image of {len(absent)} of {len(names)} classes, the first is {absent[0]}")


def _check_names(names: Iterable[str], folder: Path, what: str = "classes") -> None:
    """Raises DataError for two names that are the same but for case or the way in which accents are written, and for one not in UTF-8.

    Errors call them `what`.
    """
    seen: dict[str, str] = {}
    for name in names:
        if any("\ud800" <= sign <= "\udfff" for sign in name):
            raise DataError(f"{folder} has a class whose name is not UTF-8, {os.fsencode(name)!r}: rename it")
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            raise DataError(f"{folder} has the {what} {seen[key]} and {name}, which differ in case alone: rename one, or put them together")
        seen[key] = name
