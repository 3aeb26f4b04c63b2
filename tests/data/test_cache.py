"""The prepared cache: what is in it, that damage never goes unseen, and that it is written once and whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from PIL import Image

from data import cache, contents, files, pixels
from data.errors import DataError, UnreadableImages
from data.examples import spread
from data.source import forget, provenance
from data.sources.folder import Folder
from data.sources.offline import Offline
from data.tasks import find
from data.wheels import sha256

TASK = find("cifar100")
SIZES = {"train800": 8, "val200": 4, "train800val200": 12, "test": 60}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A cut copy of cifar100 with noise for images, and a cache of its own beside it, in this process and in those it starts."""
    monkeypatch.setenv("PVERA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "root", lambda: tmp_path / "cache" / "prepared")
    monkeypatch.setattr(contents, "root", lambda: tmp_path / "cache" / "hashes")
    generator = np.random.default_rng(0)
    for split, n in SIZES.items():
        folder = tmp_path / "vtab" / "cifar" / "images" / split
        folder.mkdir(parents=True)
        for number in range(n):
            Image.fromarray(generator.integers(0, 256, (9, 7, 3), np.uint8)).save(folder / f"{number:06d}.png")
        lines = [f"images/{split}/{number:06d}.png {number % 100}\n" for number in range(n)]
        (folder.parents[1] / f"{split}.txt").write_text("".join(lines))
    return tmp_path / "vtab"


def cut(root: Path, **options) -> Folder:
    return Folder(root=str(root), sizes="any", **options)


def entries(root: Path) -> list[Path]:
    """What is in the cache, lock files left out."""
    return sorted(path for path in (root.parent / "cache").glob("prepared/*/*") if path.suffix != ".lock")


def expected(root: Path, size: int = 5, split: str = "test") -> np.ndarray:
    files = sorted((root / "cifar" / "images" / split).glob("*.png"))
    return np.stack([np.asarray(Image.open(file).resize((size, size), Image.Resampling.BILINEAR)) for file in files])


def test_prepared_once_then_mapped(root, monkeypatch):
    first = cut(root).load(TASK, "test", 5)
    monkeypatch.setattr(Folder, "examples", None)
    monkeypatch.setattr(pixels, "write", None)
    split = cut(root).load(TASK, "test", 5)
    assert isinstance(split.images, np.memmap) and not split.images.flags.writeable
    assert np.array_equal(split.images, expected(root)) and np.array_equal(split.labels, np.arange(60))
    assert (split.fingerprint, split.pixels, split.limited) == (first.fingerprint, first.pixels, first.limited)
    [folder] = entries(root)
    assert split.pixels == sha256(folder / "images.npy")
    assert folder.name.startswith("test-5px-pil_bilinear-") and {file.name for file in folder.iterdir()} == {
        "about.json", "images.npy", "labels.npy",
    }  # fmt: skip
    about = json.loads((folder / "about.json").read_text())
    assert about["key"]["source"] == "folder" and about["key"]["resize"] == "pil_bilinear" and about["found"] == 60
    assert about["versions"].keys() == {"pillow", "libjpeg-turbo", "numpy"} == split.versions.keys()


def test_each_split_size_rule_and_limit_has_its_own(root):
    asked = [
        (cut(root), "test", 5), (cut(root), "val200", 5), (cut(root), "test", 6), (cut(root, resize="tf_bilinear"), "test", 5),
        (cut(root, resize="short_side_crop"), "test", 5), (cut(root, test_limit=10), "test", 5),
    ]  # fmt: skip
    assert len({source.load(TASK, split, size).pixels for source, split, size in asked}) == len(asked) == len(entries(root))
    # What has no part in the images makes no entry.
    cut(root, normalisation="half").load(TASK, "test", 5)
    cut(root, test_limit=10).load(TASK, "val200", 5)
    assert len(entries(root)) == len(asked)


def test_sizes_are_judged_at_every_load(root):
    cut(root).load(TASK, "test", 5)
    with pytest.raises(DataError, match="cifar100's test has 10000 images, source=folder found 60"):
        Folder(root=str(root)).load(TASK, "test", 5)


def test_a_replaced_original_or_list_makes_another_entry(root):
    before = cut(root).load(TASK, "test", 5)
    image = root / "cifar" / "images" / "test" / "000007.png"
    Image.new("RGB", (9, 7), "red").save(image)
    forget()
    after = cut(root).load(TASK, "test", 5)
    assert after.pixels != before.pixels and after.fingerprint != before.fingerprint
    assert np.array_equal(after.images, expected(root))
    lines = (root / "cifar" / "test.txt").read_text().splitlines()
    (root / "cifar" / "test.txt").write_text("\n".join(reversed(lines)))
    forget()
    assert np.array_equal(cut(root).load(TASK, "test", 5).images, expected(root)[::-1])
    image.unlink()
    with pytest.raises(DataError, match="000007.png is not a file: the copy is incomplete"):
        cut(root).load(TASK, "test", 5)


def test_several_processes_write_the_same_bytes(root, monkeypatch):
    alone = cut(root).load(TASK, "test", 5)
    [folder] = entries(root)
    folder.rename(folder.with_suffix(".away"))
    use_two_processes(monkeypatch)
    monkeypatch.setattr(pixels, "BLOCK_BYTES", 7 * 5 * 5 * 3)
    monkeypatch.setattr(pixels.Job, "fill", None)  # not in this process: the others have their own
    together = cut(root).load(TASK, "test", 5)
    assert together.pixels == alone.pixels and np.array_equal(together.images, alone.images)


def test_a_worker_works_alone(root, monkeypatch):
    monkeypatch.setattr(pixels, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(pixels, "ProcessPoolExecutor", None)
    monkeypatch.setattr(pixels.multiprocessing.process.current_process(), "_name", "LokyProcess-1")
    assert len(cut(root).load(TASK, "test", 5).labels) == 60


def test_a_worker_of_joblib_may_not_spawn_processes_and_does_not_try():
    def fill() -> list[range]:
        with pixels._mapper(SimpleNamespace(fill=lambda block: block), 10**6) as do:
            return list(do([range(2)]))

    assert joblib.Parallel(n_jobs=2)(joblib.delayed(fill)() for _ in range(2)) == [[range(2)]] * 2


def overwrite(file: Path, position: int) -> None:
    with file.open("r+b") as handle:
        handle.seek(position)
        byte = handle.read(1)[0]
        handle.seek(position)
        handle.write(bytes([byte ^ 1]))


def keeping_its_time(file: Path, position: int) -> None:
    before = file.stat()
    overwrite(file, position)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(file: Path, position: int) -> None:
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    keeping_its_time(other, position)
    other.replace(file)


def edited(file: Path, _: int) -> None:
    file.write_text(file.read_text().replace('"found": 60', '"found": 10000'))


DAMAGE = {
    "cut short": ("images.npy", lambda file: os.truncate(file, file.stat().st_size - 1), "images.npy was altered or cut short"),
    "emptied": ("images.npy", lambda file: os.truncate(file, 0), "images.npy was altered or cut short"),
    "a pixel": ("images.npy", lambda file: overwrite(file, 200), "images.npy was altered or cut short"),
    "the header": ("images.npy", lambda file: overwrite(file, 20), "images.npy was altered or cut short"),
    "a pixel, its time restored": ("images.npy", lambda file: keeping_its_time(file, 200), "images.npy was altered or cut short"),
    "another file": ("images.npy", lambda file: replaced(file, 200), "images.npy was altered or cut short"),
    "no images": ("images.npy", Path.unlink, "a file is missing"),
    "a label": ("labels.npy", lambda file: keeping_its_time(file, 200), "labels.npy was altered"),
    "no labels": ("labels.npy", Path.unlink, "a file is missing"),
    "a size": ("about.json", lambda file: edited(file, 0), "about.json was altered"),
    "half a text": ("about.json", lambda file: os.truncate(file, 100), "not readable"),
    "no object": ("about.json", lambda file: file.write_text("[]"), "not readable"),
    "no text": ("about.json", lambda file: file.write_bytes(b"\xff\xfe"), "not readable"),
    "no about": ("about.json", Path.unlink, "a file is missing"),
    "a folder": ("about.json", lambda file: (file.unlink(), file.mkdir()), "not readable"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_seen_and_mended(root, kind, capsys):
    before = cut(root).load(TASK, "test", 5)
    [folder] = entries(root)
    name, damage, said = DAMAGE[kind]
    damage(folder / name)
    after = cut(root).load(TASK, "test", 5)
    assert said in capsys.readouterr().err
    assert (after.pixels, after.fingerprint) == (before.pixels, before.fingerprint)
    assert np.array_equal(after.images, expected(root)) and np.array_equal(after.labels, np.arange(60))
    cut(root).load(TASK, "test", 5)
    assert capsys.readouterr().err == ""


def test_bytes_that_rot_on_the_disk_are_seen_when_asked(root, capsys):
    """Nothing tells the system of them, so the file looks as it did when it was last hashed."""
    cut(root).load(TASK, "test", 5)
    [folder] = entries(root)
    overwrite(folder / "images.npy", 200)
    about = cache._read_about(folder)
    about.hashed = files.state(folder / "images.npy")
    cache._write_about(folder, about)
    assert not np.array_equal(cut(root).load(TASK, "test", 5).images, expected(root))
    cut(root).load(TASK, "test", 5, rehash=True)
    assert "images.npy was altered" in capsys.readouterr().err
    assert np.array_equal(cut(root).load(TASK, "test", 5).images, expected(root))


def test_a_copied_cache_is_hashed_once_and_used(root, monkeypatch):
    before = cut(root).load(TASK, "test", 5)
    [folder] = entries(root)
    copy = folder.with_name("copy")
    subprocess.run(["cp", "-r", folder, copy], check=True)
    subprocess.run(["rm", "-r", folder], check=True)
    copy.rename(folder)
    hashed = []
    monkeypatch.setattr(cache, "sha256", lambda path: hashed.append(path.name) or sha256(path))
    monkeypatch.setattr(pixels, "write", None)
    for _ in range(2):
        assert cut(root).load(TASK, "test", 5).pixels == before.pixels
    assert sorted(hashed) == ["images.npy", "labels.npy", "labels.npy"]


def test_a_cache_that_may_only_be_read_serves(root, monkeypatch):
    cut(root).load(TASK, "test", 5)
    os.utime(entries(root)[0] / "images.npy")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "locked", refuse)
    monkeypatch.setattr(cache, "_write_about", refuse)
    assert np.array_equal(cut(root).load(TASK, "test", 5).images, expected(root))
    with pytest.raises(DataError, match="cannot write prepared images to .*cifar100: Permission denied; free some room or set PVERA_CACHE"):
        cut(root).load(TASK, "test", 6)


def start(code: str, root: Path) -> subprocess.Popen:
    """Another process, with `source` and `task` at hand."""
    head = f"from data.sources.folder import Folder; from data.tasks import find; from data import cache, pixels; import os, resource, time\nsource, task = Folder(root={str(root)!r}, sizes='any'), find('cifar100')\n"  # noqa: E501
    return subprocess.Popen(
        [sys.executable, "-c", head + code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )


def test_who_comes_second_waits_and_prepares_nothing(root):
    key = cut(root)._key(TASK, "test", 5)
    folder = key.place()
    with files.locked(folder.with_suffix(".lock"), "this"):
        second = start("pixels.write = None\nprint(source.load(task, 'test', 5).pixels)", root)
        assert second.stderr.readline() == "waiting for another process that prepares cifar100 test\n"
        cache._make(folder, key, cut(root)._making(TASK, "test"))
    out, err = second.communicate(timeout=60)
    assert (out.strip(), err) == (cut(root).load(TASK, "test", 5).pixels, "")


def test_two_runs_that_start_together_prepare_once(root):
    code = """
write = pixels.write
def counted(*arguments):
    print('prepared', flush=True)
    time.sleep(0.5)
    return write(*arguments)
pixels.write = counted
print(source.load(task, 'test', 5).pixels)
"""
    both = [start(code, root), start(code, root)]
    lines = [line for process in both for line in process.communicate(timeout=60)[0].split()]
    assert lines.count("prepared") == 1 and len(lines) == 3 and len(set(lines)) == 2
    assert len(entries(root)) == 1


def test_a_killed_process_leaves_nothing_that_is_used(root):
    killed = start("pixels.Job.fill = lambda job, positions: os.kill(os.getpid(), 9)\nsource.load(task, 'test', 5)", root)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in entries(root)] == [".partial"]
    assert np.array_equal(cut(root).load(TASK, "test", 5).images, expected(root))
    assert [path.suffix for path in entries(root)] == [""]


def test_a_full_disk_is_one_line_and_leaves_nothing(root):
    """A limit on the size of files stands in for the disk; for the labels and about.json there is room."""
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for size in (5, 6):
    try: source.load(task, 'test', size)
    except Exception as error: print(type(error).__name__, error)
    pixels._take_room = lambda *_: None  # the first is found when room is taken, the second when it is written
"""
    lines = start(code, root).communicate(timeout=60)[0].splitlines()
    assert len(lines) == 2 and entries(root) == []
    for line in lines:
        assert line.startswith("DataError cannot write prepared images to ") and "File too large; free some room" in line


def test_a_cache_that_cannot_be_made_is_one_line(root, monkeypatch):
    (root / "file").write_text("")
    monkeypatch.setattr(cache, "root", lambda: root / "file" / "prepared")
    with pytest.raises(DataError, match="cannot write prepared images to .*/file/prepared/cifar100: Not a directory; free some room"):
        cut(root).load(TASK, "test", 5)


def use_two_processes(monkeypatch) -> None:
    """Has even a few images prepared by two processes, in the smallest blocks."""
    monkeypatch.setattr(pixels, "WORTH_A_PROCESS", 20)
    monkeypatch.setattr(pixels, "BLOCK_BYTES", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)


def test_a_broken_image_is_named_and_nothing_is_left(root):
    file = root / "cifar" / "images" / "test" / "000031.png"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="000031.png is truncated or broken"):
        cut(root).load(TASK, "test", 5)
    assert entries(root) == []


def test_a_dead_worker_is_one_line(monkeypatch, tmp_path):
    use_two_processes(monkeypatch)
    with pytest.raises(DataError, match="a process that prepares images was killed, perhaps for want of memory") as raised:
        pixels.write(tmp_path / "x.npy", os._exit, range(1, 61), 5, "pil_bilinear", "x")  # a position is the exit code of its reader
    assert "\n" not in str(raised.value)


def test_labels_outside_the_classes_are_refused_before_anything_is_decoded(root, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(pixels, "write", None)
    task = replace(TASK, name="small", folder="cifar", classes=50)
    for first in (0, -20):
        monkeypatch.setattr(Folder, "_entries", lambda *_, first=first: {f"images/test/{n:06d}.png": first + n for n in range(60)})
        forget()
        with pytest.raises(DataError, match=rf"small's labels are 0 \.\. 49, test has {first} \.\. {first + 59}"):
            cut(root).load(task, "test", 5)


def test_wrong_sizes_of_images_are_refused(root):
    with pytest.raises(DataError, match="image_size must be at least 1 pixel, found 0"):
        cut(root).load(TASK, "test", 0)


def test_training_maps_the_images_without_a_copy_or_a_warning(root):
    from pvera.models.data import Data

    split = cut(root).load(TASK, "test", 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Data(split.images, split.labels, torch.device("cpu"))
    assert data.images.data_ptr() == split.images.ctypes.data
    assert np.array_equal(data.images[torch.tensor([3, 1])], split.images[[3, 1]])


def test_loading_what_is_prepared_reads_no_pixels():
    source, task = Offline(), find("digits")
    source.load(task, "test", 112)  # 30 MB
    before = resident()
    source.load(task, "test", 112)
    assert resident() - before < 10_000_000


def resident() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def test_a_table_says_so_where_runs_of_one_task_saw_other_images(root, tmp_path, capsys):
    from pvera import table
    from pvera.rows import digests, store
    from tests.helpers.rows import make_row

    seen = {}
    for seed, source in enumerate([cut(root), cut(root, resize="tf_bilinear")]):
        seen[seed] = provenance({split: source.load(TASK, split, 5) for split in ("val200", "test")})
        config = {"task": "cifar100", "seed": seed}
        row = make_row(task="cifar100", seed=seed, config=config, digest=digests.digest(config), data=seen[seed])
        store.write(digests.path(tmp_path / "rows", row.backbone, row.adapter, row.task, seed, row.digest), row)
    assert seen[0]["fingerprint"] == seen[1]["fingerprint"] and seen[0]["versions"] == seen[1]["versions"]
    assert table.main([str(tmp_path / "rows"), "--allow-limited", "--allow-dirty"]) == 0
    shown = capsys.readouterr().out
    assert "data.pixels.test (" in shown and "data.pixels.val200 (" in shown and "fingerprint" not in shown
    for data in seen.values():
        assert data["pixels"]["test"][:12] in shown


def test_versions_of_a_row_are_those_of_all_its_splits():
    from types import SimpleNamespace

    made = [SimpleNamespace(fingerprint="f", pixels="p", versions={"pillow": version}) for version in ("12.0", "13.0", "12.0")]
    assert provenance(dict(zip("abc", made, strict=True)))["versions"] == {"pillow": "12.0, 13.0"}


@pytest.mark.parametrize("together", [False, True])
def test_all_broken_images_of_all_splits_are_in_one_report(root, monkeypatch, together):
    if together:
        use_two_processes(monkeypatch)
    for split, numbers in {"val200": [1], "test": [3, 31, 32, 40, 41, 59]}.items():
        for number in numbers:
            (root / "cifar" / "images" / split / f"{number:06d}.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImages) as raised:
        cut(root).load_all(TASK, ("train800", "val200", "test"), 5)
    said = str(raised.value)
    assert said.startswith("7 images cannot be used: ") and said.endswith("; and 2 more") and "\n" not in said
    assert all(name in said for name in ("val200/000001.png", "test/000003.png", "000031", "000032", "000040")) and "000041" not in said
    assert [path.name.split("-")[0] for path in entries(root)] == ["train800"]


def test_positions_are_spread_evenly():
    assert spread(10, None) == spread(10, 10) == spread(10, 11) == list(range(10))
    assert spread(10, 4) == [0, 2, 5, 7] and spread(10, 1) == [0]
    classes = np.arange(10).repeat(100)[spread(1000, 20)]
    assert np.bincount(classes).tolist() == [2] * 10
