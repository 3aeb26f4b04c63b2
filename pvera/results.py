"""One JSON file per run: what was asked for, what came out, and what made it. The files are the truth; tables and W&B are views.

Imports neither torch nor numpy at module level, so that a table of thousands of rows is rendered at once.
"""

import errno
import hashlib
import io
import json
import math
import os
import platform
import subprocess
import tempfile
import uuid
import zipfile
import zlib
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_origin

from pvera import migrations
from pvera.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SCHEMA_VERSION = migrations.CURRENT
ROOT = Path(__file__).resolve().parent.parent
# What the figures depend on; a package that is not installed is left out.
PACKAGES = ("pvera", "torch", "torchvision", "timm", "torchmetrics", "hydra-core", "numpy", "pillow", "scikit-learn", "tensorflow-datasets")


@dataclass
class Row:
    """One run: a backbone, task, source, protocol, adapter and seed, with the adapter's whole grid.

    Losses are in nats, accuracies and calibration errors in [0, 1], `seconds` is wall time, `peak_memory` bytes, `finished` UTC in
    ISO 8601. The test metrics are those of the chosen grid point only (see pvera.calibration.metrics).
    """

    schema_version: int
    config: dict[str, Any]  # every setting that changes the numbers, and no other
    digest: str  # digest(config)
    experiment: str
    task: str
    group: str
    adapter: str
    backbone: str
    backbone_description: str
    source: str
    protocol: str
    seed: int
    image_size: int
    precision: str
    adapter_params: int
    head_params: int
    grid: list[dict[str, Any]]  # {point, val_loss, val_acc, best_epoch, epochs} each; a loss that diverged is null
    chosen: dict[str, Any]  # the point of the grid with the lowest validation loss
    val_loss: float
    val_acc: float
    test_acc: float
    test_ace: float
    test_ece: float
    test_nll: float
    test_brier: float
    best_epoch: int
    n_train: int
    n_val: int
    n_test: int
    limited: bool
    limited_reasons: list[str]
    first_loss: float  # validation loss of the chosen point before training
    seconds: float
    peak_memory: int
    git_commit: str | None
    git_dirty: bool
    versions: dict[str, str]
    device: str
    data: dict[str, Any]  # source, versions (of the data and of what decoded it), and the checksums of each split's membership and images
    finished: str
    events: list[str] = field(default_factory=list)  # what happened on the way that may have touched the numbers, in words


def digest(settings: dict[str, Any]) -> str:
    """sha256 (hex) of the settings as canonical JSON: sorted keys, no spaces. Raises ValueError for NaN, TypeError for what JSON lacks."""
    # Through JSON once, so that a dict with integer keys has the digest that it has after being read back.
    plain = json.loads(json.dumps(settings, allow_nan=False))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def path(root: Path, backbone: str, adapter: str, task: str, seed: int, digest: str) -> Path:
    """Where the run with this digest leaves its row: <root>/<backbone>/<adapter>/<task>/seed=<seed>-<first 8 of the digest>.json."""
    return Path(root) / backbone / adapter / task / f"seed={seed}-{digest[:8]}.json"


def write(path: Path, row: Row) -> None:
    """Write a row atomically, with a checksum: the file holds the whole row or does not exist. A row that is there already stays.

    Raises UserError where a figure is not finite (only a grid point that was not chosen may have diverged) or the file cannot be written.
    """
    if broken := [name for name, value in vars(row).items() if isinstance(value, float) and not math.isfinite(value)]:
        raise UserError(f"{path} not written: {', '.join(broken)} must be finite, but training diverged; lower the learning rate")
    if row.digest != digest(row.config):
        raise ValueError(f"{path}: the row's digest is not that of its config")
    grid = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()}
        for entry in row.grid
    ]
    write_atomically(path, to_text(vars(row) | {"grid": grid}).encode(), keep=True)


def to_text(values: dict[str, Any]) -> str:
    """What the file of a row with these values holds: them, and their checksum as one more, which shows a change of any of them."""
    return json.dumps(values | {"checksum": digest(values)}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read(path: Path) -> Row:
    """The row in a file. Raises UserError, naming the file, for anything but a whole and unaltered row of this schema version."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        json.dumps(values, ensure_ascii=False).encode()  # text that no file can hold (half a character), or nested too deep
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a readable JSON row: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a row: expected a JSON object, found {type(values).__name__}")
    version = values.get("schema_version")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema_version {version!r}, this version of pvera reads 1 to {SCHEMA_VERSION}: move the file away or run again"
        )
    checksum = values.pop("checksum", None)
    intact = version == 1 or checksum == digest(values)
    values = migrations.migrate(values)
    types = _field_types()
    if values.keys() != types.keys():
        named = [
            f"{what} {', '.join(sorted(keys))}"
            for what, keys in (("lacks", types.keys() - values), ("has unknown", values.keys() - types))
            if keys
        ]
        raise UserError(f"{path} is not a whole row: it {' and '.join(named)}")
    for name, kind in types.items():
        if not isinstance(values[name], kind):
            raise UserError(f"{path}: {name} must be {getattr(kind, '__name__', kind)}, found {values[name]!r}")
        if isinstance(values[name], float) and not math.isfinite(values[name]):
            raise UserError(f"{path}: {name} must be finite, found {values[name]}")
    for name, kind in (("grid", dict), ("limited_reasons", str)):
        if not all(isinstance(value, kind) for value in values[name]):
            raise UserError(f"{path}: {name} must be a list of {kind.__name__}, found {values[name]!r}")
    row = Row(**values)
    if row.digest != digest(row.config):
        raise UserError(f"{path}: its digest is not that of its config, so one of them was edited: delete the file and run again")
    if not intact:
        raise UserError(f"{path}: its checksum is not that of its values, so it was edited or damaged: delete the file and run again")
    return row


def read_all(folder: Path) -> list[Row]:
    """All rows below a folder, in the order of their paths. Raises UserError where the folder does not exist."""
    return list(read_files(folder).values())


def read_files(folder: Path) -> dict[Path, Row]:
    """All rows below a folder by their files, which are named seed=*.json; raises as `read_all`."""
    if not Path(folder).is_dir():
        raise UserError(f"no results folder at {folder}: name one that a run has written to")
    return {found: read(found) for found in sorted(Path(folder).rglob("seed=*.json"))}


def ensure_writable(folder: Path) -> None:
    """Raise UserError if no file can be made in a folder, or in the nearest above it that exists. Leaves nothing behind."""
    nearest = Path(folder).absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(
            f"results folder {folder} cannot be written: {nearest}: {error.strerror}; choose another with results=DIR"
        ) from error


def write_atomically(path: Path, data: bytes, keep: bool = False) -> None:
    """Put data into a file, making its folders: a reader, or a crash at any moment, finds the old file or the whole new one.

    With `keep` a file that is there stays as it is: who writes first wins. Raises UserError where nothing can be written.
    """
    # Not the process's number alone: workers on several machines share a folder.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if keep:
                _link(temporary, path)
            else:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def write_report(path: Path, values: dict[str, Any]) -> None:
    """Puts plain values into a JSON file, whole or not at all. Raises UserError where it cannot be written."""
    write_atomically(path, f"{json.dumps(values, indent=1, allow_nan=False)}\n".encode())


def _link(temporary: Path, path: Path) -> None:
    """Gives the file its name, atomically on network file systems too, unless another has it."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        temporary.replace(path)  # a file system without links


def remove_partial(path: Path) -> None:
    """Removes what a killed process was writing for this row. The caller owns the run, so that nobody is writing now."""
    for left in path.parent.glob(f".{path.stem}.*.tmp"):
        left.unlink(missing_ok=True)


def save_probabilities(path: Path, probabilities: "np.ndarray", labels: "np.ndarray") -> None:
    """Keep the test probabilities (N, C) as float32 and the labels (N,) as int64 beside the row at `path`, as compressed .npz."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, probabilities=np.asarray(probabilities, np.float32), labels=np.asarray(labels, np.int64))
    write_atomically(path.with_suffix(".npz"), buffer.getvalue())


def load_probabilities(path: Path) -> tuple["np.ndarray", "np.ndarray"]:
    """The probabilities (N, C) and labels (N,) kept beside the row at `path`. Raises UserError where they are missing or damaged."""
    import numpy as np

    file = path.with_suffix(".npz")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["probabilities"], arrays["labels"]
    except FileNotFoundError as error:
        raise UserError(f"no probabilities at {file}: they are not committed, so delete {path.name} and run again") from error
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} does not hold the arrays probabilities and labels: {' '.join(str(error).split())}") from error


@cache
def provenance(root: Path = ROOT) -> dict[str, Any]:
    """The row's fields that say which code ran: git_commit, git_dirty (a tracked file outside results/ differs) and versions.

    Outside a git checkout of the project the commit is None and dirty True: nobody can tell. Looked up once per process, since what
    is edited during a sweep is not the code that runs.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    # The project may lie in an environment inside somebody else's repository: only its own counts.
    commit = None
    if _git(root, "rev-parse", "--show-toplevel") == str(root):
        commit = _git(root, "rev-parse", "--verify", "HEAD")
    dirty = commit is None or _git(root, "diff", "--quiet", "HEAD", "--", ".", ":(exclude)results") is None
    return {"git_commit": commit, "git_dirty": dirty, "versions": versions}


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails or is not installed."""
    # A git hook sets these, and they would point past `root`.
    environment = {key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, env=environment)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def _field_types() -> dict[str, Any]:
    """What isinstance accepts for each field: float | int for a float, list for a list[str]."""
    types: dict[str, Any] = {}
    for one in fields(Row):
        origin = get_origin(one.type)
        types[one.name] = float | int if one.type is float else one.type if origin in (None, UnionType) else origin
    return types


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
