"""Which code made a row: the git commit, whether files were changed, and the versions of packages."""

import ast
import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Packages that results depend on; one that is not installed is left out.
PACKAGES = ("pvera", "torch", "torchvision", "timm", "torchmetrics", "hydra-core", "numpy", "pillow", "scikit-learn", "tensorflow-datasets")


#: What is imported or composed: a file there that git does not track is code that no commit holds.
CODE = ("adapters", "configs", "data", "pvera")


@cache
def provenance(root: Path = ROOT) -> dict[str, Any]:
    """The row's git_commit, git_dirty and versions of packages.

    git_dirty is True if a tracked file outside results/ differs from the commit, or a file of CODE is not tracked. It is None, as the
    commit is, if git cannot tell: outside a checkout of the project, without git, or if git refuses. Looked up once per process: edits
    during a sweep do not change the code that runs.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit, dirty = None, None
    with suppress(GitError):
        commit = _commit(root)
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
        dirty = bool(changed or _git(root, "ls-files", "--others", "--exclude-standard", "--", *CODE))
    return {"git_commit": commit, "git_dirty": dirty, "versions": versions}


def refusal(root: Path = ROOT) -> str | None:
    """Why git cannot tell which code runs, in git's own words; None if it can, or if the project is no checkout of its own."""
    if not (root / ".git").exists():
        return None
    try:
        _commit(root)
    except GitError as error:
        return str(error)
    return None


@cache
def uncommitted_source(path: Path, root: Path = ROOT) -> str | None:
    """The sha256 (hex) of a source file whose content no commit of the project identifies; None for a tracked file of the project.

    A file outside the project counts as uncommitted. A file of the project does not if git cannot tell.
    """
    if path.is_relative_to(root):
        if not (root / ".git").exists():
            return None
        try:
            _commit(root)
            is_tracked = bool(_git(root, "ls-files", "--", str(path)))
        except GitError:
            return None
        if is_tracked:
            return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def uncommitted_code(module: str, root: Path = ROOT) -> str | None:
    """The sha256 (hex) of the source of a module and of all that it imports of CODE, as far as no commit of the project identifies it.

    None for a module whose file is tracked. The folders of PVERA_ADAPTERS are a part of CODE, of `adapters.zoo`.
    """
    found: dict[str, str] = {}
    to_do = [module]
    while to_do:
        name = to_do.pop()
        file = _file(name)
        if name not in found and file and (code := uncommitted_source(file, root)):
            found[name] = code
            to_do += [other for other in _imports(name, file) if other.split(".")[0] in CODE]
    if module not in found:
        return None
    return found[module] if len(found) == 1 else hashlib.sha256("".join(sorted(found.values())).encode()).hexdigest()


def _imports(module: str, file: Path) -> list[str]:
    """What a module imports, wherever in it the import stands, by dotted names. Some are names of classes and functions."""
    names = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _file(module: str) -> Path | None:
    """The file of a module; None for any other name."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # something in a module
        return None
    return Path(spec.origin) if spec and spec.origin else None


class GitError(Exception):
    """Git failed, with its last line of output, or is not installed."""


def _commit(root: Path) -> str:
    """The commit of the project's checkout. Raises GitError if it is none, or if git refuses."""
    # The project may lie inside another repository (as part of an environment): only its own commit counts.
    if _git(root, "rev-parse", "--show-toplevel") != str(root):
        raise GitError(f"{root} is no checkout of its own")
    return _git(root, "rev-parse", "--verify", "HEAD")


def _git(root: Path, *arguments: str) -> str:
    """The output of git. Raises GitError."""
    # A git hook sets these, and they would point past `root`.
    environment = {key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, env=environment)
    except OSError as error:
        raise GitError(f"git cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        raise GitError(" ".join((done.stderr.strip() or f"exit code {done.returncode}").split("\n", 1)[0].split()))
    return done.stdout.strip()
