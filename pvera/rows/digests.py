"""The settings of a run and their digest, which identifies the run, and the path of its row."""

import hashlib
import json
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import Path
from typing import Any


def without_effect(default: Any) -> Any:
    """A dataclass field that does not count for the digest, since it has no effect on the numbers."""
    return field(default=default, metadata={"digest": False})


def settings(part: Any) -> dict[str, Any]:
    """The fields of a dataclass (and of the dataclasses in it) that count for a run's digest, as plain values.

    The metadata of a field can exempt it: {"digest": False} if it has no effect on the numbers, and {"later": True} if it was added
    after rows were committed. The latter does not count while it is at its default, so that every earlier digest stays valid.
    """
    values = {}
    for f in fields(part):
        value, default = getattr(part, f.name), f.default if f.default_factory is MISSING else f.default_factory()
        if f.metadata.get("digest", True) and not (f.metadata.get("later") and value == default):
            values[f.name] = settings(value) if is_dataclass(value) else value
    return values


def digest(settings: dict[str, Any]) -> str:
    """sha256 (hex) of the settings as canonical JSON: sorted keys, no spaces. Raises ValueError for NaN, TypeError for what JSON lacks."""
    # Through JSON once, so that a dict with integer keys has the same digest after it was read back.
    plain = json.loads(json.dumps(settings, allow_nan=False))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def path(root: Path, backbone: str, adapter: str, task: str, seed: int, digest: str) -> Path:
    """Path of the row with this digest: <root>/<backbone>/<adapter>/<task>/seed=<seed>-<first 8 of the digest>.json."""
    return Path(root) / backbone / adapter / task / f"seed={seed}-{digest[:8]}.json"
