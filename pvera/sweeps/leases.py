"""Many workers, one results folder: who trains a run holds its lease, `<stem>.lease` beside its row.

A lease is made by linking a whole file to its name, which one of several does, on network file systems too. Its holder counts a number
in it up; a lease whose bytes have not changed for EXPIRES seconds *of the reader's own time* is dead, so no two clocks need to agree and
none may mislead. A holder on this machine whose process is gone is dead at once. Whoever takes a dead lease over first links the file of
the heir, `<stem>.lease-<owner>`, which again one of several does, and then puts it in the lease's place.

Should a holder only have slept, two train the same run: its row is still written once and whole (see results.write).
"""

from __future__ import annotations

import json
import os
import platform
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

#: Seconds between two counts of a lease, and until one that does not change is dead. Network file systems may show a change a minute late.
BEAT, EXPIRES = 15.0, 120.0
#: Seconds between two looks at what another holds.
LOOK = 1.0

_seen: dict[Path, tuple[bytes, float]] = {}  # what a lease held, and since when, by this process's own clock


@dataclass
class Claim:
    """Who works on a run."""

    run: Path
    """Its row, which is not there yet."""
    host: str
    process: int
    since: str
    """UTC in ISO 8601, by the holder's clock."""
    alive: bool | None
    """False if the holder is surely dead; None if only time can tell."""

    def holder(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


class Lease:
    """A run that this process holds."""

    def __init__(self, row: Path) -> None:
        self.row, self.path, self.owner, self.beats = row, row.with_suffix(".lease"), uuid.uuid4().hex, 0
        self._values = {
            "owner": self.owner, "host": platform.node(), "pid": os.getpid(), "started": _started(os.getpid()), "space": _space(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        self._temporary = self.path.with_name(f".{self.path.stem}.{self.owner}.tmp")
        self.file: int | None = None

    def take(self) -> bool:
        """Tries to get the run; False if another has it. Raises UserError where no file can be made."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                self._write()
                taken = _linked(self._temporary, self.path) or self._inherit()
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
        content = lease = _read(self.path)
        while content is not None and (later := _read(_heir(self.path, content))) is not None:
            content = later  # one who died while taking over
        if content is None or not _dead(self.path, content):
            return False
        heir = _heir(self.path, content)
        if not _linked(self._temporary, heir):
            return False
        if _read(self.path) != lease:  # it was not dead after all, or this look at it is an old one
            heir.unlink(missing_ok=True)
            return False
        self._temporary.replace(self.path)
        _seen.pop(self.path, None)
        print(f"pvera: took {self.row.name} over from {_claim(self.path, content).holder()}, which has stopped", file=sys.stderr)
        return True

    def _write(self) -> None:
        # In place, so that a holder who was taken for dead cannot touch the lease of who came after; always as long as before.
        assert self.file is not None
        os.pwrite(self.file, json.dumps(self._values | {"beats": f"{self.beats:012}"}).encode(), 0)
        os.fsync(self.file)

    def beat(self) -> None:
        """Shows that the holder lives. A failure is no reason to stop: the run may be taken over, and the first row counts."""
        self.beats += 1
        with suppress(OSError):
            self._write()

    def release(self) -> None:
        """Gives the run back, unless another has taken it over."""
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
    """Claims what can be had of these runs without waiting, and gives those that have no row yet."""
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
    """Returns once one of these runs, which others hold, can be claimed or has its row."""
    said = False
    while True:
        for row in rows:
            lease = row.with_suffix(".lease")
            content = _read(lease)
            if row.exists() or content is None or _dead(lease, content):
                return
            if not said:
                print(f"pvera: waiting for {row.name}: {_claim(row, content).holder()}; Ctrl-C stops the waiting", file=sys.stderr)
                said = True
        time.sleep(LOOK)


def claims(folder: Path) -> list[Claim]:
    """Who works on which run below a folder, in the order of their paths."""
    found = ((path, _read(path)) for path in sorted(Path(folder).rglob("*.lease")))
    return [_claim(path, content) for path, content in found if content is not None]


def of(row: Path) -> Claim | None:
    """Who works on one run."""
    content = _read(row.with_suffix(".lease"))
    return None if content is None else _claim(row, content)


def _claim(path: Path, content: bytes) -> Claim:
    values = _values(content)
    alive = False if _gone(values) else None
    return Claim(path.with_suffix(".json"), str(values.get("host")), int(values.get("pid") or 0), str(values.get("since")), alive)


def _dead(path: Path, content: bytes) -> bool:
    """Whether the holder is gone from this machine, or has not changed its lease for long enough, as seen by this process."""
    if _gone(_values(content)):
        return True
    seen, since = _seen.get(path, (None, 0.0))
    if seen != content:
        _seen[path] = content, time.monotonic()
        return False
    return time.monotonic() - since > EXPIRES


def _gone(values: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine, where its process would be seen, and runs no more."""
    space = _space()
    return space is not None and values.get("space") == space and _started(values["pid"]) != values["started"]


def _space() -> str | None:
    """Where process numbers mean the same: this start of this machine (and container). None where Linux's /proc does not tell."""
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    return None


def _started(process: int) -> str | None:
    """When a process of this machine started, in ticks since boot, so that a later one of its number is another; None if it is gone."""
    with suppress(OSError, IndexError):
        state, *others = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else others[18]
    return None


def _values(content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _heir(lease: Path, content: bytes) -> Path:
    """Where who takes over from this holder puts its own lease first."""
    return lease.with_name(f"{lease.name}-{_values(content).get('owner', 'damaged')}")


def _linked(file: Path, name: Path) -> bool:
    try:
        name.hardlink_to(file)
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
