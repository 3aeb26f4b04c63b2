"""Reads W&B's own offline files."""

import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = ("run", "history", "summary", "metric", "artifact", "exit")


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: 7 bytes of header, then LevelDB's log format (32 KiB blocks of checksummed fragments)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = file.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at < len(data):
        if (left := -at % 32768) and left < 7:  # the end of a block is padded where no fragment header fits
            at += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, at)
        fragment = data[at + 7 : at + 7 + length]
        assert zlib.crc32(bytes([kind]) + fragment) == checksum
        at += 7 + length
        parts = parts + fragment if kind in (3, 4) else fragment  # 1 full, 2 first, 3 middle, 4 last
        if kind in (1, 4):
            yield Record.FromString(parts)


def read(file: Path) -> dict[str, list]:
    """All records by kind, once the last is in: W&B's service flushes the file some milliseconds after `finish` has returned."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = list(records(file)) if file.stat().st_size > 7 else []
        if found and found[-1].WhichOneof("record_type") == "exit":
            return {kind: [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind] for kind in KINDS}
        time.sleep(0.02)
    raise AssertionError(f"{file} never got its exit record")


def items(entries) -> dict:
    return {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


def history(found: dict[str, list]) -> list[dict]:
    """What was logged, by step, without W&B's own times."""
    steps = [items(record.item) for record in found["history"]]
    return [{key: value for key, value in step.items() if key == "_step" or not key.startswith("_")} for step in steps]


def summary(found: dict[str, list]) -> dict:
    """The summary at the end."""
    values: dict = {}
    for record in found["summary"]:
        values |= items(record.update)
    return values


def only(folder: Path) -> Path:
    """The one offline run's folder."""
    [found] = (folder / "wandb").glob("offline-run-*")
    return found
