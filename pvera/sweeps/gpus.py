"""One GPU for each process of a launcher without GPUs of its own (joblib): PVERA_GPUS=0,1,2,3 in the launcher's configuration."""

import os
import socket
import sys

from filelock import FileLock, Timeout

from data.files import cache_dir
from pvera.errors import UserError

_held: list[FileLock] = []  # as long as the process lives; the locks of a dead process are free


def take_gpu() -> None:
    """Restricts this process to one of the GPUs in $PVERA_GPUS that no other process has taken. Without that variable it does nothing.

    Must be called before CUDA starts. Raises UserError if it has, or if all GPUs are taken.
    """
    gpus = os.environ.get("PVERA_GPUS")
    if not gpus or _held:
        return
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        raise UserError(f"PVERA_GPUS={gpus} is for a launcher's workers, and this process uses a GPU already: set CUDA_VISIBLE_DEVICES")
    for gpu in gpus.split(","):
        path = cache_dir() / "gpus" / f"{socket.gethostname()}-{gpu.strip()}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            lock.acquire(timeout=0)
        except Timeout:
            continue
        except OSError as error:
            raise UserError(f"cannot lock {path}: {error.strerror}; set PVERA_CACHE to a folder that can be written") from error
        _held.append(lock)
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu.strip()
        return
    raise UserError(f"PVERA_GPUS={gpus}: other processes have taken them all; set hydra.launcher.n_jobs to their number")
