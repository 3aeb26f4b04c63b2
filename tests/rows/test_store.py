"""Rows: digest, write and read, refusal of what is not a whole row, provenance, probabilities."""

import copy
import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from pvera import storage
from pvera.errors import UserError
from pvera.rows import digests, store
from pvera.rows.row import SCHEMA_VERSION, Row
from tests.helpers.rows import make_row


def test_digest_is_that_of_canonical_json():
    settings = {"b": [1, 2.0, None, True], "a": {"é": 1e-4, "z": "x"}}
    expected = hashlib.sha256(b'{"a":{"z":"x","\\u00e9":0.0001},"b":[1,2.0,null,true]}').hexdigest()
    assert digests.digest(settings) == expected == digests.digest(dict(reversed(settings.items())))
    assert digests.digest({"b": [2.0, 1, None, True], "a": settings["a"]}) != expected
    assert digests.digest({"a": 1}) != digests.digest({"a": 1.0}) != digests.digest({"a": "1.0"})


def test_digest_survives_a_round_trip_through_json():
    settings = {"betas": {2: "two", 10: "ten"}, "pair": (1, 2)}
    assert digests.digest(json.loads(json.dumps(settings))) == digests.digest(settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_digest_refuses_what_json_lacks(value):
    with pytest.raises((ValueError, TypeError)):
        digests.digest({"a": value})


def test_path(tmp_path):
    found = digests.path(tmp_path, "dinov2_vits14", "pvera", "cifar100", 2, "0123456789abcdef")
    assert found == tmp_path / "dinov2_vits14" / "pvera" / "cifar100" / "seed=2-01234567.json"


def test_write_and_read_back(tmp_path):
    row = make_row(task="Größe")
    target = tmp_path / "deep" / "seed=0-x.json"
    store.write(target, row)
    assert store.read(target) == row
    assert store.read_all(tmp_path) == [row]
    assert list(json.loads(target.read_text(encoding="utf-8"))) == [*(field.name for field in fields(Row)), "checksum"]
    assert [file.name for file in target.parent.iterdir()] == ["seed=0-x.json"]  # no temporary file stays
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()  # rows are shared text, not private files


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_grid_point_that_diverged_is_null(tmp_path):
    entry = {"point": {"lr": 1.0}, "val_loss": float("nan"), "val_acc": 0.1, "best_epoch": 0, "epochs": 1}
    store.write(tmp_path / "seed=0.json", make_row(grid=[entry, *make_row().grid]))
    grid = store.read(tmp_path / "seed=0.json").grid
    assert grid[0] == entry | {"val_loss": None} and grid[1] == make_row().grid[0]


def test_a_row_that_diverged_is_not_written(tmp_path):
    with pytest.raises(UserError, match=r"val_loss, test_nll must be finite"):
        store.write(tmp_path / "seed=0.json", make_row(val_loss=float("nan"), test_nll=float("inf")))
    with pytest.raises(ValueError, match="digest"):
        store.write(tmp_path / "seed=0.json", make_row(digest="0" * 64))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "seed=0.json"
    store.write(target, make_row())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*seed=0.json: No space left on device"):
        storage.write_atomically(target, b"{}")
    with pytest.raises(UserError, match=r"cannot write .*seed=1.json: No space left on device"):
        store.write(tmp_path / "seed=1.json", make_row(seed=1))
    assert store.read(target) == make_row()
    assert [file.name for file in tmp_path.iterdir()] == ["seed=0.json"]


@pytest.mark.parametrize("links", [True, False])
def test_of_two_rows_of_a_run_the_first_stays(tmp_path, monkeypatch, links):
    if not links:  # a file system that has none

        def refuse(self, target):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    target = tmp_path / "seed=0.json"
    store.write(target, make_row())
    assert store.read(target) == make_row()
    if links:
        store.write(target, make_row(seconds=99.0))
        assert store.read(target) == make_row()
    assert [file.name for file in tmp_path.iterdir()] == ["seed=0.json"]


@pytest.mark.parametrize("version", [1, 2, SCHEMA_VERSION + 1, "3", True, None])
def test_a_row_of_another_schema_version_is_refused_by_name(tmp_path, version):
    target = tmp_path / "seed=0.json"
    target.write_text(store.to_text(vars(make_row(schema_version=version))))
    with pytest.raises(UserError, match=rf"seed=0.json has schema_version {version!r}, this version of pvera reads {SCHEMA_VERSION}: "):
        store.read(target)


def test_any_flipped_bit_of_a_row_is_found(tmp_path):
    target = tmp_path / "seed=0.json"
    store.write(target, make_row())
    whole = target.read_bytes()
    random = np.random.default_rng(0)
    for place in random.choice(8 * len(whole), 300, replace=False):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        target.write_bytes(damaged)
        try:
            assert store.read(target) == make_row()  # a space between values
            assert json.loads(damaged) == json.loads(whole)
        except UserError as error:
            assert str(target) in str(error)


def test_readers_see_only_whole_rows(tmp_path):
    target = tmp_path / "seed=0.json"
    store.write(target, make_row())
    stop = threading.Event()

    def rewrite():
        while not stop.is_set():
            storage.write_atomically(target, store.to_text(vars(make_row(data={"source": "x" * 50_000}))).encode())
            storage.write_atomically(target, store.to_text(vars(make_row())).encode())

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(100):
            store.read(target)
    finally:
        stop.set()
        writer.join()


def broken(change) -> str:
    values = copy.deepcopy(vars(make_row()))
    change(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable JSON row"),
        ("", "not a readable JSON row"),
        (broken(lambda values: values["test"].update(acc=float("nan"))), "NaN is not JSON"),
        ("[1]", "expected a JSON object, found list"),
        ("{}", "has schema_version None, this version of pvera reads 3"),
        (broken(lambda values: values.pop("test")), "lacks test"),
        (broken(lambda values: values.update(colour=1, age=2)), "has unknown age, colour"),
        (broken(lambda values: (values.update(colour=1), values.pop("seed"))), "lacks seed and has unknown colour"),
        (broken(lambda values: values.update(val_acc="0.5")), "val_acc must be .*float.*, found '0.5'"),
        (broken(lambda values: values["test"].update(acc="0.5")), "test metric acc must be a finite number, found '0.5'"),
        (broken(lambda values: values["test"].update(acc=None)), "test metric acc must be a finite number, found None"),
        (broken(lambda values: values.update(grid={})), "grid must be list, found {}"),
        (broken(lambda values: values.update(config={"seed": 1})), "digest is not that of its config"),
        (broken(lambda values: values.update(digest="0" * 64)), "digest is not that of its config"),
        (broken(lambda values: values["test"].update(acc=0.75)), "checksum is not that of its values"),
        (broken(lambda values: values.update(checksum="0" * 64)), "checksum is not that of its values"),
    ],
)
def test_what_is_not_a_whole_row_is_refused(tmp_path, text, message):
    target = tmp_path / "seed=0.json"
    target.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        store.read(target)
    assert str(target) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        store.read_all(tmp_path)
    store.write(tmp_path / "seed=1.json", make_row(seed=1))
    rows, [error] = store.scan(tmp_path)
    assert list(rows) == [tmp_path / "seed=1.json"] and error == str(caught.value)


def test_read_of_odd_files(tmp_path):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.json", ".", "bytes.json"):
        with pytest.raises(UserError, match="not a readable JSON row"):
            store.read(tmp_path / name)
    integral = json.loads(json.dumps(vars(make_row()))) | {"val_loss": 2, "git_commit": None}
    (tmp_path / "seed=0.json").write_text(store.to_text(integral))
    assert store.read(tmp_path / "seed=0.json").val_loss == 2


def test_read_all_takes_rows_only_and_in_order(tmp_path):
    for seed in (2, 0, 1):
        store.write(tmp_path / "b" / f"seed={seed}-0.json", make_row(seed=seed))
    (tmp_path / "wandb.json").write_text("{}")
    (tmp_path / "b" / ".seed=3.json.77.tmp").write_text("{")
    assert [row.seed for row in store.read_all(tmp_path)] == [0, 1, 2]
    with pytest.raises(UserError, match="no results folder at .*absent"):
        store.read_all(tmp_path / "absent")


def test_all_rows_are_read_and_without_torch(tmp_path):
    for seed in range(200):
        (tmp_path / f"seed={seed}-0.json").write_text(store.to_text(vars(make_row(seed=seed))))
    assert len(store.read_all(tmp_path)) == 200
    code = "import sys, pvera.rows.store; print([name for name in ('torch', 'numpy', 'timm', 'hydra') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_ensure_writable(tmp_path):
    storage.ensure_writable(tmp_path)
    storage.ensure_writable(tmp_path / "to" / "be" / "made")
    assert not list(tmp_path.iterdir())  # asking leaves nothing behind
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"results folder .*file.* cannot be written: .*results=DIR"):
            storage.ensure_writable(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_ensure_writable_of_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="Permission denied"):
        storage.ensure_writable(tmp_path / "results")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that takes no files")  # noqa: PTH112
def test_ensure_writable_of_a_file_system_that_takes_no_files():
    with pytest.raises(UserError, match="cannot be written"):
        storage.ensure_writable("/proc/self/results")


def test_probabilities_next_to_the_row(tmp_path):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), size=7)
    labels = np.arange(7) % 5
    row = tmp_path / "digits" / "seed=0-01234567.json"
    store.save_probabilities(row, probabilities, labels)
    assert [file.name for file in row.parent.iterdir()] == ["seed=0-01234567.npz"]
    kept, kept_labels = store.load_probabilities(row)
    assert kept.dtype == np.float32 and kept_labels.dtype == np.int64
    np.testing.assert_array_equal(kept, probabilities.astype(np.float32))
    np.testing.assert_array_equal(kept_labels, labels)


def test_probabilities_that_are_missing_damaged_or_pickled(tmp_path):
    row = tmp_path / "seed=0.json"
    with pytest.raises(UserError, match="no probabilities at"):
        store.load_probabilities(row)
    store.save_probabilities(row, np.eye(3), np.arange(3))
    whole = row.with_suffix(".npz").read_bytes()
    np.savez(tmp_path / "pickled.npz", probabilities=np.array([{}], dtype=object), labels=np.arange(1))
    np.savez(tmp_path / "other.npz", scores=np.eye(2))
    flipped = bytearray(whole)
    flipped[100] ^= 255  # inside the compressed data, where only the checksum can tell
    for content in (
        b"",
        b"junk",
        whole[:-40],
        whole[: len(whole) // 2],
        bytes(flipped),
        *((tmp_path / f"{name}.npz").read_bytes() for name in ("pickled", "other")),
    ):
        row.with_suffix(".npz").write_bytes(content)
        with pytest.raises(UserError, match="does not hold the arrays"):
            store.load_probabilities(row)
