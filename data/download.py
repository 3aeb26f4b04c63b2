"""Has TFDS download a data set and write it as array_record. The only part of the project that needs TensorFlow."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from data.errors import DataError
from data.files import locked
from data.tasks import Task


def download(task: Task, data_dir: Path, manual_dir: Path | None, is_prepared: Callable[[], bool]) -> None:
    """Downloads the task's builder and prepares it in TFDS's data folder. `manual_dir` is TFDS's own if it is None.

    Finished downloads are kept, and what a killed run left behind is cleared away. Raises DataError if it cannot be done.
    """
    folder, manual_dir = data_dir / task.builder, manual_dir or data_dir / "downloads" / "manual"
    _require(task, manual_dir)
    try:
        with locked(data_dir / f".{task.builder.replace('/', '-')}.lock", task.builder):
            if not is_prepared():  # another process may have done it meanwhile
                downloads = data_dir / "downloads" / task.builder.split("/")[0]
                for left in (*folder.glob("*incomplete*"), *downloads.glob("*.tmp.*")):
                    shutil.rmtree(left, ignore_errors=True)
                _download(task, data_dir, manual_dir)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}; free some room or give another root=DIR") from error


def _require(task: Task, manual_dir: Path) -> None:
    """Raises DataError if a file that the user has to provide is missing, or TensorFlow."""
    if missing := [name for name in task.manual_files.split() if not (manual_dir / name).exists()]:
        raise DataError(
            f"{task.name} must be downloaded by hand: put {task.manual} into {manual_dir}; "
            f"missing there: {', '.join(missing)} (manual_dir=DIR looks elsewhere)"
        )
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError("writing TFDS data needs TensorFlow: pip install -e '.[prepare]' (training does without)")


def _download(task: Task, data_dir: Path, manual_dir: Path) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # or it reports GPUs and instruction sets
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    try:
        builder = tfds.builder(task.builder, data_dir=data_dir, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise DataError(f"TFDS {tfds.__version__} has no builder {task.builder}: {str(error).splitlines()[0][:200]}") from error
    if task.versions and not any(fnmatchcase(str(builder.version), pattern) for pattern in task.versions.split()):
        raise DataError(
            f"tensorflow-datasets {tfds.__version__} prepares {task.builder} in version {builder.version}, "
            f"{task.name} needs {' or '.join(task.versions.split())}: install the version that pyproject.toml names"
        )
    if getattr(task, "label", "") == "stored" and (classes := builder.info.features["label"].num_classes) != task.classes:
        raise DataError(f"{builder.info.full_name} has {classes} classes, {task.name} has {task.classes}: not prepared")
    room = f"about {task.disk_gb:g} GB" if task.disk_gb else str(builder.info.dataset_size or "of unknown size")
    print(f"{task.builder}: {room} when prepared; licence, by its own page: {task.licence}", file=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would report every retry
    lost = _unknown_hosts(builder.url_infos)
    downloader.MAX_RETRIES = 0 if lost else 10  # or it would wait for minutes, in vain
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False))
    except Exception as error:  # the requests, the archives and the builders raise errors of many kinds
        if lost:
            raise DataError(f"{builder.info.full_name} must be downloaded, but {', '.join(lost)} cannot be found: no network?") from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise DataError(f"TFDS could not prepare {builder.info.full_name} ({reason}); what was downloaded is kept: run it again") from error


def _unknown_hosts(urls: Iterable[str]) -> list[str]:
    """The hosts of these addresses that cannot be looked up; none where a proxy is set, which looks them up itself."""
    lost = []
    for host in sorted({urlsplit(url).hostname or "" for url in urls}) if not getproxies() else []:
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            lost.append(host)
    return lost
