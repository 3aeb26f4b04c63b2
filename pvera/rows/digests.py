"""Which settings a run has, as one checksum, and where a run with it leaves its row."""

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(settings: dict[str, Any]) -> str:
    """sha256 (hex) of the settings as canonical JSON: sorted keys, no spaces. Raises ValueError for NaN, TypeError for what JSON lacks."""
    # Through JSON once, so that a dict with integer keys has the digest that it has after being read back.
    plain = json.loads(json.dumps(settings, allow_nan=False))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def path(root: Path, backbone: str, adapter: str, task: str, seed: int, digest: str) -> Path:
    """Where the run with this digest leaves its row: <root>/<backbone>/<adapter>/<task>/seed=<seed>-<first 8 of the digest>.json."""
    return Path(root) / backbone / adapter / task / f"seed={seed}-{digest[:8]}.json"
