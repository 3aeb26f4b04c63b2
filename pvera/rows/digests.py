"""The settings of a run and their digest, which identifies the run, and the path of its row."""

import hashlib
import json
from dataclasses import MISSING, Field, field, fields, is_dataclass
from pathlib import Path
from typing import Any


def without_effect(default: Any) -> Any:
    """A dataclass field that does not count for the digest, since it has no effect on the numbers."""
    return field(default=default, metadata={"digest": False})


def settings(part: Any) -> dict[str, Any]:
    """The fields of a dataclass (and of the dataclasses in it) that count for a run's digest, as plain values.

    The metadata of a field can exempt it: {"digest": False} if it has no effect on the numbers, and {"later": True} if it was added
    after rows were committed. The latter does not count while it is as in the earlier rows, so that every earlier digest stays valid.
    """
    values = {}
    for f in fields(part):
        value = getattr(part, f.name)
        if f.metadata.get("digest", True) and not (f.metadata.get("later") and value == before(f)):
            values[f.name] = settings(value) if is_dataclass(value) else value
    return values


def before(field: Field) -> Any:
    """What a field that was added later is in a row that does not mention it: {"before": value} in its metadata, or its default."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return field.metadata.get("before", default)


def digest(settings: dict[str, Any]) -> str:
    """sha256 (hex) of the settings as canonical JSON: sorted keys, no spaces. Raises ValueError for NaN, TypeError for what JSON lacks."""
    # Through JSON once, so that a dict with integer keys has the same digest after it was read back.
    plain = json.loads(json.dumps(settings, allow_nan=False))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def path(root: Path, backbone: str, adapter: str, task: str, seed: int, digest: str) -> Path:
    """Path of the row with this digest: <root>/<backbone>/<adapter>/<task>/seed=<seed>-<first 8 of the digest>.json."""
    return Path(root) / backbone / adapter / task / f"seed={seed}-{digest[:8]}.json"
