"""Leases: several workers share a results folder, and each run is trained by the worker that holds `<stem>.lease` next to its row.

A lease is made by linking a complete file to its name, which succeeds for one worker only, on network file systems too. Where there are
no hard links (exFAT, some cloud drives) an empty file is made under the name first, which succeeds for one worker only too. The holder
counts up a number in it. A lease whose bytes have not changed for EXPIRES seconds *of the reader's own time* is dead, so clocks need not
agree. A holder on this machine whose process has ended is dead at once. To take over a dead lease, a worker first links the file of the
heir, `<stem>.lease-<owner>`, which again succeeds for one worker only, and then renames it to `<stem>.lease`.

If a holder was merely asleep, two workers train the same run. Its row is still written once and whole (pvera.storage).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pvera.errors import UserError
from pvera.storage import hard_link
from pvera.sweeps import processes

#: Seconds between two counts of a lease, and seconds without a change until a lease is dead. Network file systems may be a minute late.
BEAT, EXPIRES = 15.0, 120.0
#: Seconds between two looks at a lease that another worker holds.
LOOK = 1.0

_seen: dict[Path, tuple[bytes, float]] = {}  # the bytes of a lease, and since when they have not changed, by this process's own clock


@dataclass
class Holder:
    """The worker that holds the lease of a run."""

    run: Path
    """The run's row, which is not there yet."""
    host: str
    process: int
    since: str
    """UTC in ISO 8601, by the holder's clock."""
    alive: bool | None
    """False if the holder is certainly dead; None if only time can tell."""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


class Lease:
    """The lease of a run, held by this process once it is taken."""

    def __init__(self, row: Path) -> None:
        self.row, self.path, self.owner, self.beats = row, row.with_suffix(".lease"), uuid.uuid4().hex, 0
        self._values = {"owner": self.owner, **processes.identity(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
        self._temporary = self.path.with_name(f".{self.path.stem}.{self.owner}.tmp")
        self.file: int | None = None

    def take(self) -> bool:
        """Tries to take the lease; False if another worker holds it. Raises UserError where no file can be made."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                self._write()
                taken = _linked(self._temporary, self.path) or self._inherit()
            except FileNotFoundError:  # another worker took the lease meanwhile, and removed this file (storage.remove_partial)
                taken = False
            finally:
                self._temporary.unlink(missing_ok=True)
        except OSError as error:
            self._close()
            raise UserError(f"cannot claim {self.row}: {error.strerror}") from error
        if not taken:
            self._close()
        return taken

    def _inherit(self) -> bool:
        """Takes the place of a dead holder."""
        lease, (file, content) = _read(self.path), _latest(self.path)
        if content is None or not _dead(file, content):
            return False
        heir = _heir(file, content)
        if not _linked(self._temporary, heir):
            return False
        if _read(self.path) != lease:  # the holder was alive after all, or was succeeded since this process looked
            heir.unlink(missing_ok=True)
            return False
        heir.replace(self.path)
        _seen.pop(self.path, None)
        print(f"pvera: took {self.row.name} over from {_holder(self.path, content)}, which has stopped", file=sys.stderr)
        return True

    def _write(self) -> None:
        # In place and always of the same length, so that a holder that was taken for dead cannot touch the lease of its heir.
        assert self.file is not None
        os.pwrite(self.file, json.dumps(self._values | {"beats": f"{self.beats:012}"}).encode(), 0)
        os.fsync(self.file)

    def beat(self) -> None:
        """Counts up, to show that the holder lives. Errors are ignored: at worst the run is taken over, and the first row counts."""
        self.beats += 1
        with suppress(OSError):
            self._write()

    def release(self) -> None:
        """Gives the lease back, unless another worker has taken it over."""
        with suppress(OSError):
            assert self.file is not None
            if os.path.samestat(os.fstat(self.file), self.path.stat()):
                for heir in self.path.parent.glob(f"{self.path.name}-*"):
                    heir.unlink(missing_ok=True)
                self.path.unlink()
        self._close()

    def _close(self) -> None:
        if self.file is not None:
            os.close(self.file)
            self.file = None


@contextmanager
def hold(rows: list[Path]) -> Iterator[list[Path]]:
    """Takes those leases of the runs that are free, and gives the rows of these runs that are not there yet."""
    leases: list[Lease] = []
    stop = threading.Event()

    def beats() -> None:
        while not stop.wait(BEAT):
            for lease in leases:
                lease.beat()

    thread = threading.Thread(target=beats, daemon=True)
    try:
        for row in rows:
            lease = Lease(row)
            if lease.take():
                leases.append(lease)
        thread.start()
        yield [lease.row for lease in leases if not lease.row.exists()]
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()
        for lease in leases:
            lease.release()


def wait(rows: list[Path]) -> None:
    """Waits until one of these runs, whose leases other workers hold, is free or has its row."""
    announced = False
    while True:
        for row in rows:
            file, content = _latest(row.with_suffix(".lease"))
            if row.exists() or content is None or _dead(file, content):
                return
            if not announced:
                print(f"pvera: waiting for {row.name}: {_holder(row, content)}; Ctrl-C stops the waiting", file=sys.stderr)
                announced = True
        time.sleep(LOOK)


def holder_of(row: Path) -> Holder | None:
    """The holder of one run's lease; None if nobody holds it."""
    content = _read(row.with_suffix(".lease"))
    return None if content is None else _holder(row, content)


def _holder(path: Path, content: bytes) -> Holder:
    values = _values(content)
    alive = False if processes.gone(values) else None
    return Holder(path.with_suffix(".json"), str(values.get("host")), int(values.get("pid") or 0), str(values.get("since")), alive)


def _dead(path: Path, content: bytes) -> bool:
    """Whether the holder's process has ended, or its lease has not changed for EXPIRES seconds, as seen by this process."""
    if processes.gone(_values(content)):
        return True
    seen, since = _seen.get(path, (None, 0.0))
    if seen != content:
        _seen[path] = content, time.monotonic()
        return False
    return time.monotonic() - since > EXPIRES


def _values(content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _heir(file: Path, content: bytes) -> Path:
    """The name under which the worker that takes over from the holder with this file links its own lease first."""
    return file.with_name(f"{file.name}-{_values(content).get('owner', 'damaged')}")


def _latest(lease: Path) -> tuple[Path, bytes | None]:
    """The lease, or the file of the last heir that began to take over (it may have died before it did), and what it holds."""
    file, content = lease, _read(lease)
    while content is not None and (later := _read(heir := _heir(file, content))) is not None:
        file, content = heir, later
    return file, content


def _linked(file: Path, name: Path) -> bool:
    """Gives a file this name; False if there is one of that name. Where there are no hard links the file is renamed."""
    if (linked := hard_link(file, name)) is not None:
        return linked
    try:
        name.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        file.replace(name)
    except FileNotFoundError:
        name.unlink(missing_ok=True)
        raise
    return True


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
