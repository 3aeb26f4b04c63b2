"""`python -m data.prepare` and `python -m data.status`: what they say, do, and refuse in one line."""

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import cache, prepare, status
from data.errors import DataError
from data.prepare import PrepareRequest
from data.request import Request, parse
from data.sources.folder import Folder
from data.sources.offline import Offline
from data.sources.tfds import Tfds
from data.tasks import EXTRA, TASKS, find
from tests.helpers.tfds import TRUE, Kitti, describe

no_tensorflow = importlib.util.find_spec("tensorflow") is None


@pytest.fixture(scope="module")
def kitti(tmp_path_factory) -> Path:
    """KITTI's splits in their true sizes, with made-up pictures."""
    folder = tmp_path_factory.mktemp("tfds")
    Kitti(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(cache, "root", lambda: tmp_path / "prepared")
    return tmp_path / "prepared"


def test_words_become_a_request():
    asked = parse(
        PrepareRequest, ["task=dtd,cifar", "source=folder", "root=/d", "image_size=32", "sizes=any", "manual_dir=/m", "resize=tf_bilinear"]
    )
    assert asked == PrepareRequest("dtd,cifar", "folder", "/d", 32, "tf_bilinear", "any", "/m")
    assert asked.make("folder") == Folder(root="/d", resize="tf_bilinear", sizes="any")
    assert [task.name for task in asked.tasks(Folder())] == ["dtd", "cifar100"]
    assert parse(Request, ["root=null"]).make("tfds") == Tfds()
    assert Request().tasks(Tfds()) == Request().tasks(Folder()) == list(TASKS.values())
    assert [task.name for task in Request().tasks(Offline())] == ["dsprites_loc", "dsprites_ori", "digits"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dtd"], "'dtd' is not of the form key=value; there are task=, source=, root=, image_size=, resize=, sizes="),
        (["tasks=dtd"], "tasks is no key; there are task=, source="),
        (["task=ddt"], "no task 'ddt'; choose from caltech101, "),
        (["source=web"], "source must be one of auto, folder, offline, tfds, found 'web'"),
        (["image_size=big"], "image_size: Value 'big' of type 'str' could not be converted to Integer"),
        (["image_size=0"], "image_size must be at least 1 pixel, found 0"),
        (["resize=cubic"], "source.resize must be one of pil_bilinear, pil_bicubic, tf_bilinear, short_side_crop, found 'cubic'"),
        (["source=offline", "root=/d"], r"source=offline has no root: leave it out"),
    ],
)
@pytest.mark.parametrize("command", [status, prepare])
def test_a_wrong_request_is_one_line(command, words, message, capsys):
    assert command.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"data.{command.__name__.split('.')[1]}: ") and err.count("\n") == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(err)


def test_help_needs_nothing_heavy():
    for module in ("data.prepare", "data.status"):
        code = f"import sys; sys.argv = ['x', '--help']; import {module} as m; print(m.main(['--help']), " + (
            "[n for n in ('torch', 'numpy', 'PIL', 'tensorflow_datasets') if n in sys.modules])"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out.endswith("0 []\n") and f"python -m {module} [task=dtd,svhn]" in out


def rows(text: str) -> dict[tuple[str, str], list[str]]:
    """The lines of a status table by task and source."""
    return {
        (cells[0], cells[1]): cells for line in text.splitlines()[1:-1] if (cells := [cell.strip() for cell in line.split("  ") if cell])
    }


def test_status_lists_the_19_and_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("VTAB1K_ROOT", raising=False)
    assert status.main([]) == 0
    text = capsys.readouterr().out
    shown = rows(text)
    assert [key for key in shown if key[1] == "tfds"] == [(name, "tfds") for name in TASKS]
    assert [key[0] for key in shown if key[1] == "offline"] == ["dsprites_loc", "dsprites_ori", "digits"]
    for name, task in TASKS.items():
        cells = shown[name, "tfds"]
        assert cells[2:6] == ["missing", "-/800", "-/200", f"-/{task.n_test}"]
        assert cells[-1].endswith(f"in {tmp_path}/{task.builder}: run `python -m data.prepare task={name}`")
    assert shown["digits", "offline"][2:6] == ["ready", "800/800", "200/200", "797/797"]
    assert text.endswith("3 of 20 tasks ready\n")
    monkeypatch.setenv("VTAB1K_ROOT", str(tmp_path))
    assert status.main([]) == 0
    assert [key for key in rows(capsys.readouterr().out) if key[1] == "folder"] == [(name, "folder") for name in TASKS]
    assert not list(tmp_path.iterdir())


def test_status_finds_all_19_ready_where_all_splits_are_whole(tmp_path, capsys):
    for name, (sizes, _, _) in TRUE.items():
        describe(name, tmp_path, sizes)
    assert status.main(["source=tfds", f"root={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert {cells[2] for cells in rows(text).values()} == {"ready"} and text.endswith("19 of 19 tasks ready\n")
    describe("dtd", tmp_path, {"train": 1_880, "validation": 1_880, "test": 1_879})
    assert status.main(["source=tfds", f"root={tmp_path}", "task=dtd"]) == 0
    cells = rows(capsys.readouterr().out)["dtd", "tfds"]
    assert cells[2:6] == ["not right", "800/800", "200/200", "1879/1880"]
    assert cells[-1] == "dtd's test has 1880 images, source=tfds found 1879; source.sizes=any accepts a cut and marks the run limited"


def test_prepare_fills_the_cache_and_says_what_it_found(kitti, own_cache, capsys):
    words = ["task=kitti", f"root={kitti}", "image_size=8"]
    assert prepare.main(words) == 0
    out, err = capsys.readouterr()
    labels = Tfds(root=str(kitti)).examples(find("kitti"), "test").labels
    counts = np.bincount(labels)
    assert err == "" and out.startswith(
        "[1/1] kitti: train800 800, val200 200, train1000 1,000, test 711 images; 4 of 4 classes in test "
        f"({counts.min()} to {counts.max()} images each); 521 kB at 8 px in "
    )
    assert sorted(path.name.split("-")[0] for path in (own_cache / "kitti").iterdir() if path.is_dir()) == [
        "test", "train1000", "train800", "val200",
    ]  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in own_cache.rglob("images.npy")}
    status.main(["source=tfds", *words])
    assert rows(capsys.readouterr().out)["kitti", "tfds"][2:6] == ["ready", "800/800", "200/200", "711/711"]
    assert prepare.main(words) == 0  # what is done stays
    assert {path: path.stat().st_mtime_ns for path in own_cache.rglob("images.npy")} == before
    status.main(["source=tfds", *words])
    assert "4/4 521 kB" in capsys.readouterr().out


def test_prepare_goes_on_after_a_task_that_cannot_be_had(kitti, own_cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert prepare.main(["task=dtd,svhn,resisc45,kitti,digits", f"root={kitti}", "image_size=8", f"manual_dir={tmp_path}"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("[4/5] kitti: train800 800")
    lines = err.splitlines()
    assert lines[0] == "[1/5] dtd: writing TFDS data needs TensorFlow: pip install -e '.[prepare]' (training does without)"
    assert lines[1].startswith("[3/5] resisc45: resisc45 must be downloaded by hand: put NWPU-RESISC45.rar from https://1drv.ms/")
    assert f" into {tmp_path}; missing there: NWPU-RESISC45 (manual_dir=DIR looks elsewhere)" in lines[1]
    assert lines[2] == "[5/5] digits: TFDS has no digits: take source=offline"
    assert lines[3:] == ["data.prepare: 4 of 5 tasks are not ready: dtd, svhn, resisc45, digits"]
    assert not (kitti / "dtd").exists() and not list(kitti.glob(".*"))


def test_manual_downloads_are_looked_for_where_tfds_looks(tmp_path, capsys):
    manual = tmp_path / "downloads" / "manual"
    (manual / "train").mkdir(parents=True)
    assert prepare.main(["task=diabetic_retinopathy", f"root={tmp_path}"]) == 1
    err = capsys.readouterr().err
    assert f"into {manual}; missing there: trainLabels.csv, test, sample (" in err and "kaggle.com" in err


def test_prepare_of_a_folder_checks_it_first(tmp_path, own_cache, capsys):
    folder = tmp_path / "dtd" / "images"
    folder.mkdir(parents=True)
    for colour, name in enumerate(("train800", "val200", "test")):
        Image.new("RGB", (3, 3), (colour, 0, 0)).save(folder / f"{name}.png")
        (folder.parent / f"{name}.txt").write_text(f"images/{name}.png 46\n")
    (folder.parent / "train800val200.txt").write_text("images/train800.png 46\nimages/val200.png 46\n")
    words = ["task=dtd", "source=folder", f"root={tmp_path}", "image_size=4"]
    assert prepare.main(words) == 1
    assert "dtd's train800 has 800 images, source=folder found 1" in capsys.readouterr().err
    assert prepare.main([*words, "sizes=any"]) == 0
    assert "1 of 47 classes in test (0 to 1 images each); no test image of class 0, 1, 2" in capsys.readouterr().out
    status.main([*words, "sizes=any"])
    assert rows(capsys.readouterr().out)["dtd", "folder"][-1].startswith("train800 has 1 images instead of 800; val200 has 1 images")
    (folder.parent / "test.txt").write_text("images/test.png 47\n")
    status.main([*words, "sizes=any"])
    cells = rows(capsys.readouterr().out)["dtd", "folder"]
    assert cells[2:6] == ["not right", "1/800", "1/200", "-/1880"] and cells[-1].endswith("must be a whole number in 0 .. 46, found '47'")


def test_stopping_is_no_traceback(kitti, own_cache, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "prepare", stop)
    assert prepare.main(["task=kitti,dtd", f"root={kitti}"]) == 130
    assert capsys.readouterr().err == "data.prepare: stopped; the same command goes on with what is missing\n"


@pytest.mark.skipif(no_tensorflow, reason="no TensorFlow (pip install -e '.[prepare]')")
def test_what_goes_wrong_while_downloading_is_one_line(tmp_path, monkeypatch, capsys):
    import tensorflow_datasets as tfds

    def unreachable(*_):
        (left,) = (tmp_path / "dtd").glob("incomplete*")
        raise ConnectionError("HTTPSConnectionPool(host='www.robots.ox.ac.uk'):\nMax retries exceeded")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    left = tmp_path / "dtd" / "incomplete.ABC_3.0.1"
    left.mkdir(parents=True)  # by a killed run
    assert prepare.main(["task=dtd", f"root={tmp_path}"]) == 1
    line, _ = capsys.readouterr().err.strip().splitlines()[-2:]
    assert line == (
        "[1/1] dtd: TFDS could not prepare dtd/3.0.1 (ConnectionError: HTTPSConnectionPool(host='www.robots.ox.ac.uk'): Max retries "
        "exceeded); what was downloaded is kept: run it again"
    )
    assert not list((tmp_path / "dtd").iterdir())


@pytest.mark.skipif(no_tensorflow, reason="no TensorFlow (pip install -e '.[prepare]')")
def test_without_network_each_task_is_one_line_at_once(tmp_path, monkeypatch, capsys):
    def nowhere(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    assert prepare.main(["task=dtd,smallnorb_azi", f"root={tmp_path}"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert lines == [
        "[1/2] dtd: dtd/3.0.1 must be downloaded, but www.robots.ox.ac.uk cannot be found: no network?",
        "[2/2] smallnorb_azi: smallnorb/2.0.0 must be downloaded, but cs.nyu.edu cannot be found: no network?",
    ]
    assert prepare.main(["task=dtd", f"root={tmp_path}"]) == 1
    assert len(list(tmp_path.glob("downloads/dtd/*.tmp.*"))) <= 1 and not list((tmp_path / "dtd").iterdir())


@pytest.mark.skipif(no_tensorflow, reason="no TensorFlow (pip install -e '.[prepare]')")
def test_tfds_of_another_version_is_refused(tmp_path, capsys, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.builder("dtd").__class__, "VERSION", tfds.core.Version("4.0.0"))
    assert prepare.main(["task=dtd", f"root={tmp_path}"]) == 1
    assert (
        f"tensorflow-datasets {tfds.__version__} prepares dtd in version 4.0.0, dtd needs 3.*.*: install the version"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "dtd").exists()


def test_each_task_is_shown_and_prepared_from_the_source_that_has_it(own_cache, capsys):
    words = ["task=digits", "source=auto", "image_size=4"]
    assert prepare.main(words) == 0 and "797 images" in capsys.readouterr().out
    assert status.main(words) == 0
    assert rows(capsys.readouterr().out)["digits", "offline"][2] == "ready"


def test_a_root_alone_is_that_of_tfds(tmp_path, capsys):
    assert status.main(["task=dtd", f"root={tmp_path}"]) == 0
    assert list(rows(capsys.readouterr().out)) == [("dtd", "tfds")]


def test_bytes_are_shown_in_fitting_units():
    assert [status.human(size) for size in (0, 1, 999, 1_000, 123_456_789, 2_540_000_000)] == [
        "-",
        "1 B",
        "999 B",
        "1 kB",
        "123 MB",
        "2.5 GB",
    ]
    assert status.human(11_000_000_000_000) == "11000.0 GB"


def test_every_task_is_offered_by_some_source():
    for task in (TASKS | EXTRA).values():
        assert any(source.offers(task) for source in (Tfds(), Offline()))
    with pytest.raises(DataError, match="TFDS has no digits"):
        Tfds().count(find("digits"), "test")
