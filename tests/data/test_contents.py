"""Fingerprints: they follow the bytes of images and nothing else, and hashes are kept between starts without ever being stale."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from data import cache, contents, files
from data.errors import DataError
from data.source import forget
from data.sources.folder import Folder
from data.tasks import find

TASK = find("cifar100")
NAMES = [f"{number}.png" for number in range(6)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(contents, "root", lambda: tmp_path / "hashes")
    monkeypatch.setattr(cache, "root", lambda: tmp_path / "prepared")
    return tmp_path / "hashes"


@pytest.fixture
def settle(monkeypatch):
    """Files that were written just now count as settled."""
    monkeypatch.setattr(contents, "SETTLED_NS", 0)


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of the files whose bytes were read."""
    names: list[str] = []
    whole = files.sha256
    monkeypatch.setattr(contents.files, "sha256", lambda path: names.append(Path(path).name) or whole(path))
    return names


def make(root: Path) -> Folder:
    """A cut of cifar100 whose files all have the same size and the time 0."""
    folder = root / "cifar"
    folder.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        Image.new("RGB", (9, 7), (number, 0, 0)).save(folder / name.replace("png", "bmp"))
        (folder / name.replace("png", "bmp")).rename(folder / name)
        os.utime(folder / name, (0, 0))
    for split, part in {"train800": NAMES[:2], "val200": NAMES[2:3], "train800val200": NAMES[:3], "test": NAMES[3:]}.items():
        (folder / f"{split}.txt").write_text("".join(f"{name} {label}\n" for label, name in enumerate(part)))
    lines = (folder / "train800val200.txt").read_text()
    (folder / "train800val200.txt").write_text(lines.replace("2.png 2", "2.png 0"))
    return Folder(root=str(root), sizes="any")


def fingerprint(source: Folder) -> str:
    """As a new process computes it."""
    forget()
    return source.fingerprint(TASK)


def paint(path: Path, colour: str = "green") -> bytes:
    other = path.with_name("other.bmp")
    Image.new("RGB", (9, 7), colour).save(other)
    content = other.read_bytes()
    other.unlink()
    assert len(content) == path.stat().st_size
    return content


def overwrite(path: Path) -> None:
    path.write_bytes(paint(path))


def overwrite_and_restore_times(path: Path) -> None:
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    fresh = path.with_name("fresh")
    fresh.write_bytes(paint(path))
    os.utime(fresh, (0, 0))
    fresh.replace(path)


def replace_hard_link(path: Path) -> None:
    link = path.with_name("link")
    link.hardlink_to(path)
    replace(link)
    link.replace(path)


def write_through_hard_link(path: Path) -> None:
    path.with_name("link").hardlink_to(path)
    overwrite_and_restore_times(path.with_name("link"))


def replace_target_of_link(path: Path) -> None:
    path.rename(path.with_name("target"))
    path.symlink_to("target")
    overwrite_and_restore_times(path.with_name("target"))


CHANGES = [overwrite, overwrite_and_restore_times, replace, replace_hard_link, write_through_hard_link, replace_target_of_link]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("split", [0, 2, 5])
def test_changed_bytes_change_the_fingerprint_and_the_prepared_images(tmp_path, settle, change, split):
    source = make(tmp_path / "a")
    before, image = fingerprint(source), tmp_path / "a" / "cifar" / NAMES[split]
    pixels = {name: part.pixels for name, part in source.load_all(TASK, ("train1000", "test"), 8).items()}
    time.sleep(0.02)  # longer than a step of the system's clock
    change(image)
    assert fingerprint(source) != before
    after = {name: part.pixels for name, part in source.load_all(TASK, ("train1000", "test"), 8).items()}
    assert {name for name in pixels if pixels[name] != after[name]} == {"test" if split == 5 else "train1000"}


def test_two_folders_of_equal_sizes_and_times_share_nothing(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    for name in NAMES:
        image = tmp_path / "b" / "cifar" / name
        image.write_bytes(paint(image, f"#0000{NAMES.index(name):02x}"))
        os.utime(image, (0, 0))
    assert fingerprint(first) != fingerprint(second)
    assert first.load(TASK, "test", 8).pixels != second.load(TASK, "test", 8).pixels


def test_equal_bytes_elsewhere_or_renamed_have_the_same_fingerprint_and_share_prepared_images(tmp_path, monkeypatch):
    source = make(tmp_path / "a")
    before, pixels = fingerprint(source), source.load(TASK, "test", 8).pixels
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    folder = tmp_path / "b" / "cifar"
    (folder / "deeper").mkdir()
    (folder / NAMES[4]).rename(folder / "deeper" / "new.png")
    (folder / "test.txt").write_text((folder / "test.txt").read_text().replace(NAMES[4], "deeper/new.png"))
    copy = Folder(root=str(tmp_path / "b"), sizes="any")
    assert fingerprint(copy) == before
    monkeypatch.setattr("data.pixels.write", None)
    assert copy.load(TASK, "test", 8).pixels == pixels
    (tmp_path / "b").rename(tmp_path / "c")
    monkeypatch.setenv("VTAB1K_ROOT", str(tmp_path / "c"))
    assert fingerprint(Folder(sizes="any")) == before


def test_order_and_labels_are_part_of_it(tmp_path):
    source, path = make(tmp_path / "a"), tmp_path / "a" / "cifar" / "test.txt"
    before, lines = fingerprint(source), path.read_text().splitlines()
    seen = {before}
    for changed in (lines[::-1], [*lines[:2], f"{NAMES[5]} 9"], lines[:2]):
        path.write_text("\n".join(changed))
        seen.add(fingerprint(source))
    assert len(seen) == 4
    path.write_text("\r\n".join([*lines, ""]))
    assert fingerprint(source) == before


def test_a_second_start_reads_no_image(tmp_path, settle, read):
    source = make(tmp_path / "a")
    before = fingerprint(source)
    assert sorted(read) == NAMES
    read.clear()
    assert fingerprint(source) == before and read == []
    os.utime(tmp_path / "a" / "cifar" / NAMES[1])
    assert fingerprint(source) == before and read == NAMES[1:2]


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path, read):
    source = make(tmp_path / "a")
    fingerprint(source)
    read.clear()
    fingerprint(source)
    assert set(read) == set(NAMES)


DAMAGE = {
    "absent": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a bit": lambda path: path.write_bytes(path.read_bytes()[:-40] + bytes([path.read_bytes()[-40] ^ 1]) + path.read_bytes()[-39:]),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_hashes_count_as_absent(tmp_path, settle, own_cache, kind, read):
    source = make(tmp_path / "a")
    before = fingerprint(source)
    [kept] = own_cache.glob("*.json")
    DAMAGE[kind](kept)
    read.clear()
    assert fingerprint(source) == before and sorted(set(read)) == NAMES
    assert len(list(own_cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, settle, own_cache):
    source = make(tmp_path / "a")
    own_cache.write_text("")
    assert fingerprint(source) == fingerprint(source)


def test_processes_that_hash_together_agree(tmp_path, own_cache):
    make(tmp_path / "a")
    code = (
        "from data import contents; contents.SETTLED_NS = 0; from data.sources.folder import Folder; from data.tasks import find\n"
        f"print(Folder(root={str(tmp_path / 'a')!r}, sizes='any').fingerprint(find('cifar100')))"
    )
    environment = os.environ | {"PVERA_CACHE": str(tmp_path)}
    started = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate(timeout=60)[0].strip() for process in started} == {
        fingerprint(Folder(root=str(tmp_path / "a"), sizes="any"))
    }
    [kept] = own_cache.iterdir()
    assert len(contents._read(kept)) == len(NAMES)


def test_images_that_change_in_a_running_process_are_refused(tmp_path, settle, monkeypatch):
    source = make(tmp_path / "a")
    fingerprint(source)
    time.sleep(0.02)
    overwrite(tmp_path / "a" / "cifar" / NAMES[4])
    with pytest.raises(DataError, match="images or labels of cifar100's test changed since this command started: start it again"):
        source.load(TASK, "test", 8)
    source.load(TASK, "val200", 8)
    forget()
    write = cache.pixels.write

    def meanwhile(*arguments):
        time.sleep(0.02)
        (tmp_path / "a" / "cifar" / NAMES[4]).write_bytes(paint(tmp_path / "a" / "cifar" / NAMES[4], "blue"))
        return write(*arguments)

    monkeypatch.setattr(cache.pixels, "write", meanwhile)
    with pytest.raises(DataError, match="changed while they were prepared: run again"):
        source.load(TASK, "test", 8)
    assert not [path for path in (tmp_path / "prepared" / "cifar100").iterdir() if path.name.startswith("test") and path.is_dir()]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*/none\.png: No such file"):
        contents.hashes(tmp_path, ["none.png"])
