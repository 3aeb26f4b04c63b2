"""Which code made a row: the git commit, whether files were changed, and the versions of packages."""

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Packages that results depend on; one that is not installed is left out.
PACKAGES = ("pvera", "torch", "torchvision", "timm", "torchmetrics", "hydra-core", "numpy", "pillow", "scikit-learn", "tensorflow-datasets")


@cache
def provenance(root: Path = ROOT) -> dict[str, Any]:
    """The row's git_commit, git_dirty (a tracked file outside results/ differs) and versions of packages.

    Outside a git checkout of the project the commit is None and git_dirty is True. Looked up once per process: edits during a sweep do
    not change the code that runs.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    # The project may lie inside another repository (as part of an environment): only its own commit counts.
    commit = None
    if _git(root, "rev-parse", "--show-toplevel") == str(root):
        commit = _git(root, "rev-parse", "--verify", "HEAD")
    dirty = commit is None or _git(root, "diff", "--quiet", "HEAD", "--", ".", ":(exclude)results") is None
    return {"git_commit": commit, "git_dirty": dirty, "versions": versions}


def _git(root: Path, *arguments: str) -> str | None:
    """The output of git; None where it fails or is not installed."""
    # A git hook sets these, and they would point past `root`.
    environment = {key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, env=environment)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
