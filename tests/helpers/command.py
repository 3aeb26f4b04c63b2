"""Commands in processes of their own, as a user starts them, without the seconds that importing torch and timm takes each.

`python -m pvera ...` in a new interpreter spends most of its time on imports. Here a server (multiprocessing's forkserver) imports the
libraries once, and each command is a fork of it that runs the module as `python -m` does: with its own arguments, environment, folder,
output, signals and exit code. Code in place of a module runs as `python -c` does, with the libraries already imported.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.helpers.preloaded"])


class Command:
    """A running command, with the methods of subprocess.Popen that the tests use. `stderr` can be a terminal's path."""

    def __init__(
        self,
        *words: str,
        module: str = "pvera",
        code: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stderr: Path | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, "out"), stderr or Path(self._folder.name, "err")]
        for file in self._files:
            if not file.exists():
                file.touch()
        arguments = (
            code,
            ["-c" if code else module, *words],
            dict(os.environ if env is None else env),
            os.fspath(cwd or Path.cwd()),
            *map(os.fspath, self._files),
        )
        self._process = _context.Process(target=_run, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._files[0].read_text()

    @property
    def stderr(self) -> str:
        return self._files[1].read_text() if self._files[1].is_file() else ""  # a terminal's is read at its other end

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_until(self, seen: Callable[[], object], timeout: float = 300) -> None:
        """Waits until `seen()` is true. Kills the command and raises AssertionError if it has ended before, or takes longer."""
        deadline = time.monotonic() + timeout
        while not seen():
            if self.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise AssertionError(f"exit code {self.poll()} before it was seen: {self.stdout}{self.stderr}")
            time.sleep(0.01)

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """Waits for its end. Kills it and raises subprocess.TimeoutExpired if it takes longer than `timeout` seconds."""
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(str(self), timeout, self.stdout, self.stderr)
        return subprocess.CompletedProcess([], code, self.stdout, self.stderr)


def run(
    *words: str, module: str = "pvera", code: str | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    """The result of a command that has ended."""
    return Command(*words, module=module, code=code, env=env, cwd=cwd).wait()


def _run(code: str | None, words: list[str], env: dict[str, str], cwd: str, *outputs: str) -> None:
    """In the new process: what `python -m` or `python -c` does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background without it
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    sys.argv = words
    try:
        if code is None:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        else:
            exec(code, {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out
