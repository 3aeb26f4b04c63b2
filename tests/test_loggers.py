"""Loggers: what W&B is told, read back from its own file; where it goes; and that a failing logger stops nothing."""

import json
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from pvera import loggers
from pvera.errors import UserError
from pvera.loggers import Logger, Wandb

ENVIRONMENT = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "NETRC")


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    """An empty home without any setting of W&B."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def records(file: Path):
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


def whole(file: Path) -> list:
    """All records, once the last is in: W&B's service flushes the file some milliseconds after `finish` has returned."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = list(records(file)) if file.stat().st_size > 7 else []
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.02)
    raise AssertionError(f"{file} never got its exit record")


def items(entries) -> dict:
    return {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


def log_a_run(folder: Path, epochs: int = 3) -> None:
    logger = Wandb(dir=str(folder))
    settings = {"adapter": {"name": "pvera", "lr": 1e-3}, "task": "dsprites_loc", "filler": "x" * 50_000}
    logger.start(settings, run_id="0123456789abcdef", group="demo", job_type="pvera", tags=["dsprites_loc", "test_vit"])
    for epoch in range(1, epochs + 1):
        logger.epoch({"epoch": epoch, "cross_entropy": 2.0 / epoch, "kl": 0.5 * epoch, "val_loss": 1.0 / epoch, "val_acc": epoch / 10})
    row = {"test_acc": 0.625, "test_ace": 0.03125, "val_loss": 0.5, "limited": True, "task": "dsprites_loc", "chosen": {"lr": 1e-3}}
    logger.finish(row)


def test_an_offline_run_read_back_from_its_own_file(tmp_path, monkeypatch, no_key, capfd):
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    log_a_run(tmp_path / "results" / "demo")
    assert not list(cwd.iterdir())  # nothing beside the user's work

    [folder] = (tmp_path / "results" / "demo" / "wandb").glob("offline-run-*")
    out, err = capfd.readouterr()
    assert out == f"logged offline; to send it: wandb sync {folder}\n" and err == ""

    found = whole(folder / "run-0123456789abcdef.wandb")
    [run] = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.project, run.run_group, run.job_type) == ("0123456789abcdef", "pvera", "demo", "pvera")
    assert list(run.tags) == ["dsprites_loc", "test_vit"]
    config = items(run.config.update)
    assert config["adapter"] == {"name": "pvera", "lr": 1e-3} and config["task"] == "dsprites_loc" and len(config["filler"]) == 50_000

    history = [items(record.history.item) for record in found if record.WhichOneof("record_type") == "history"]
    told = [{key: value for key, value in entry.items() if not key.startswith("_")} for entry in history]
    assert told == [
        {"epoch": 1, "cross_entropy": 2.0, "kl": 0.5, "val_loss": 1.0, "val_acc": 0.1},
        {"epoch": 2, "cross_entropy": 1.0, "kl": 1.0, "val_loss": 0.5, "val_acc": 0.2},
        {"epoch": 3, "cross_entropy": 2.0 / 3, "kl": 1.5, "val_loss": 1.0 / 3, "val_acc": 0.3},
    ]
    summary: dict = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    assert summary["test_acc"] == 0.625 and summary["test_ace"] == 0.03125 and summary["limited"] is True
    assert summary["val_loss"] == 0.5  # the chosen one, not the last epoch's
    assert summary["chosen"] == {"lr": 1e-3} and "task" not in summary
    [end] = [record.exit for record in found if record.WhichOneof("record_type") == "exit"]
    assert end.exit_code == 0


def test_runs_of_one_process_are_kept_apart(tmp_path, no_key):
    """Two runs open at once: the one that fails does not become the other."""
    first, second = Wandb(dir=str(tmp_path)), Wandb(dir=str(tmp_path))
    for run_id, logger in (("aaaa", first), ("bbbb", second)):
        logger.start({"id": run_id}, run_id=run_id, group="g", job_type="j", tags=["t"])
    first.epoch({"epoch": 1, "val_loss": 1.0})
    second.epoch({"epoch": 1, "val_loss": 2.0})
    first.finish(None)
    second.epoch({"epoch": 2, "val_loss": 3.0})
    second.finish({"test_acc": 0.5, "chosen": {}})
    for run_id, losses, code in (("aaaa", [1.0], 1), ("bbbb", [2.0, 3.0], 0)):
        [file] = (tmp_path / "wandb").glob(f"offline-run-*/run-{run_id}.wandb")
        found = whole(file)
        assert [items(r.history.item)["val_loss"] for r in found if r.WhichOneof("record_type") == "history"] == losses
        assert [r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit"] == [code]


class Broken(Logger):
    """Fails at the named step, and counts what was still called."""

    def __init__(self, step: str):
        super().__init__()
        self.step, self.calls = step, []

    def _call(self, step):
        self.calls.append(step)
        if step == self.step:
            raise ConnectionError("no route\nto host")

    def _start(self, *arguments):
        self._call("start")

    def _epoch(self, figures):
        self._call("epoch")

    def _finish(self, row):
        self._call("finish")


@pytest.mark.parametrize(
    ("step", "calls"), [("start", ["start"]), ("epoch", ["start", "epoch"]), ("finish", ["start", "epoch", "epoch", "finish"])]
)
def test_a_logger_that_fails_warns_once_and_the_run_goes_on(step, calls, capsys):
    logger = Broken(step)
    logger.start({}, run_id="a", group="g", job_type="j", tags=[])
    logger.epoch({"epoch": 1})
    logger.epoch({"epoch": 2})
    logger.finish({})
    assert logger.calls == calls
    warning = "pvera: warning: Broken logging of this run stopped, the run goes on: ConnectionError: no route to host\n"
    assert capsys.readouterr().err == warning
    logger.step = ""
    logger.start({}, run_id="b", group="g", job_type="j", tags=[])
    assert logger.calls[-1] == "start"  # the next run is logged again


def test_a_row_is_kept_when_wandb_cannot_even_start(tmp_path, no_key, capsys):
    from test_results import make_row

    from pvera import results

    (tmp_path / "file").write_text("")
    logger = Wandb(dir=str(tmp_path / "file" / "below"))
    logger.start({}, run_id="a", group="g", job_type="j", tags=["t"])
    logger.epoch({"epoch": 1})
    results.write(tmp_path / "seed=0.json", make_row())
    logger.finish(vars(make_row()))
    assert results.read(tmp_path / "seed=0.json") == make_row()
    assert capsys.readouterr().err.count("warning: Wandb logging of this run stopped") == 1


def test_an_interrupt_is_not_swallowed():
    class Interrupted(Logger):
        def _epoch(self, figures):
            raise KeyboardInterrupt

    logger = Interrupted()
    logger.start({}, run_id="a", group="g", job_type="j", tags=[])
    with pytest.raises(KeyboardInterrupt):
        logger.epoch({})


def test_a_run_that_ended_before_its_start_leaves_nothing_to_say(tmp_path, capfd):
    Wandb(dir=str(tmp_path)).finish(None)
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_has_key(no_key, monkeypatch):
    assert not loggers.has_key()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert loggers.has_key()
    monkeypatch.delenv("WANDB_API_KEY")

    (no_key / ".netrc").write_text("machine other.example login user password secret\n")
    assert not loggers.has_key()
    (no_key / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert loggers.has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    assert not loggers.has_key()
    monkeypatch.delenv("WANDB_BASE_URL")

    (no_key / ".netrc").write_text("broken\n")
    assert not loggers.has_key()
    (no_key / "elsewhere").write_text("machine api.wandb.ai login user password secret\n")
    monkeypatch.setenv("NETRC", str(no_key / "elsewhere"))
    assert loggers.has_key()


def test_the_mode_asked_of_wandb(no_key, monkeypatch, tmp_path):
    """Online only with a key; $WANDB_MODE wins over both. wandb.init is replaced, so nothing goes online."""
    import wandb

    asked = []

    def init(**arguments):
        asked.append(arguments["mode"])
        raise RuntimeError

    monkeypatch.setattr(wandb, "init", init)

    def mode(**fields):
        Wandb(dir=str(tmp_path), **fields).start({}, run_id="a", group="g", job_type="j", tags=["t"])
        return asked.pop()

    assert mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert mode() is None and mode(mode="offline") == "offline"
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode() is None
    with pytest.raises(UserError, match="logger.mode must be auto or offline, found 'online'"):
        Wandb(mode="online")


def test_choices_compose(tmp_path):
    loggers.register()
    assert set(ConfigStore.instance().list("logger")) == {"none.yaml", "wandb.yaml"}
    with initialize(version_base="1.3", config_path=None):
        overrides = ["+logger=wandb", "+results=results/demo", "logger.project=mine"]
        wandb_logger = OmegaConf.to_object(compose(overrides=overrides).logger)
        none = OmegaConf.to_object(compose(overrides=["+logger=none"]).logger)
    assert wandb_logger == Wandb(project="mine", dir="results/demo")
    assert type(none) is Logger
    none.start({}, run_id="a", group="g", job_type="j", tags=[])
    none.epoch({"epoch": 1})
    none.finish({})


def test_the_schema_needs_neither_wandb_nor_torch():
    code = "import sys, pvera.loggers as l; l.register(); print([name for name in ('torch', 'numpy', 'wandb') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
