"""Whatever is in a file or on a command line: it is accepted, or refused by an error that becomes one line. Never another exception.

A few inputs each here; many, with their number: PVERA_FUZZ=20000 pytest tests/test_fuzz.py --hypothesis-show-statistics
"""

import json
import os
import shlex
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from data import segmentation
from data.files import local
from data.prepare import PrepareRequest
from data.request import parse
from data.source import Source
from data.sources.folder import Folder
from data.tasks import find
from pvera import table
from pvera.command import MISTAKES, explain
from pvera.config import from_dict, register, to_runs
from pvera.errors import UserError
from pvera.evaluators import foreign
from pvera.models import checkpoint
from pvera.models.backbones import Backbone
from pvera.overrides import check_folder, check_words, close_environment
from pvera.rows import digests, reported, store
from tests.helpers.rows import run

MANY = int(os.environ.get("PVERA_FUZZ", 30))
fuzz = settings(
    max_examples=MANY, derandomize="PVERA_FUZZ" not in os.environ, deadline=None, database=None,
    suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate),
)  # fmt: skip
slower = settings(fuzz, max_examples=max(15, MANY // 10))
ROW = json.loads(store.to_text(vars(run())))

texts = st.text(max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
odd_words = st.sampled_from(
    [
        *(
            "../x",
            "/etc/passwd",
            "\x00",
            "a" * 5000,
            "a/" * 3000 + "b",
            "٣",
            "²",
            "-1",
            "1e999",
            "nan",
            "[" * 1200,
            "{" * 1200,
            "\ud800",
            "",
        ),
        *(
            " ",
            "\u2028",
            "~",
            "image.png",
            "9" * 5000,
            "${oc.env:HOME}",
            "${x",
            "_target_",
            "'",
            '"',
            "\\",
            "\x1c",
            "0",
            "1.5",
            "true",
            "null",
        ),
    ]
)
entries = st.tuples(odd_words | texts, st.sampled_from(["0", "1", "99", "100", "-1", "٣"])).map(" ".join)  # of a list file
lines = st.lists(entries | st.lists(texts | odd_words, max_size=4).map(" ".join), max_size=6).map("\n".join)
contents = st.binary(max_size=200) | lines.map(lambda text: text.encode("utf-8", "surrogatepass"))


def fine(error: BaseException) -> None:
    """One line, and one that can be printed."""
    said = explain(error)
    assert said and "\n" not in said


def mutated(original):
    """The same JSON value with a few of its parts replaced, taken out or added, at any depth."""

    def change(value, path, new, how):
        if not path or not isinstance(value, dict | list) or not value:
            return new
        keys = sorted(value) if isinstance(value, dict) else range(len(value))
        key = keys[path[0] % len(keys)]
        copy = dict(value) if isinstance(value, dict) else list(value)
        if how == "drop" and len(path) == 1:
            del copy[key]
        elif how == "add" and isinstance(copy, dict) and len(path) == 1:
            copy["added"] = new
        else:
            copy[key] = change(value[key], path[1:], new, how)
        return copy

    changes = st.tuples(
        st.lists(st.integers(0, 60), min_size=1, max_size=4), json_values | odd_words, st.sampled_from(["put", "put", "drop", "add"])
    )

    def apply(many):
        value = original
        for one in many:
            value = change(value, *one)
        return value

    return st.lists(changes, min_size=1, max_size=3).map(apply)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@fuzz
@given(content=contents)
def test_list_files(folder, content):
    task = find("cifar100")
    (folder / "cifar100").mkdir(exist_ok=True)
    (folder / "cifar100" / "image.png").touch()
    for name in ("train800", "val200", "train800val200", "test"):
        (folder / "cifar100" / f"{name}.txt").write_bytes(content)
    source = Folder(root=str(folder), sizes="any")
    for ask in (
        source.check,
        lambda task: source.identify(task, "test"),
        lambda task: source.examples(task, "train800"),
        source.fingerprint,
    ):
        try:
            ask(task)
        except MISTAKES as error:
            fine(error)


@fuzz
@given(content=contents | json_values.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 3000))
def test_rows_of_any_content(folder, content):
    (folder / "row.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        store.read(folder / "row.json")
    fine(caught.value)


@fuzz
@given(values=mutated(ROW))
def test_rows_with_altered_parts_and_their_table(folder, values):
    """With the digest of the altered config, as who alters a row with care would write it."""
    if isinstance(values, dict) and isinstance(values.get("config"), dict):
        with suppress(ValueError, TypeError):
            values["digest"] = digests.digest(values["config"])
    (folder / "rows").mkdir(exist_ok=True)
    (folder / "rows" / "seed=0-x.json").write_text(json.dumps(values), encoding="utf-8")
    assert table.main([str(folder / "rows"), "--allow-limited", "--allow-dirty"]) in (0, 1, 2)


def written(header: bytes, tensors: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + tensors


@pytest.fixture(scope="module")
def saved():
    register()
    with initialize_config_module("configs", version_base="1.3"):
        return to_runs(compose("config", overrides=["backbone=test_vit", "task=extra/digits"]))[0].to_dict()


@fuzz
@given(data=st.data())
def test_checkpoint_headers(folder, saved, data):
    run = data.draw(json_values | mutated(json.loads(json.dumps(saved))))
    metadata = data.draw(st.just({"format": checkpoint.FORMAT, "run": json.dumps(run)}) | st.dictionaries(texts, texts, max_size=3))
    tensors = data.draw(st.just({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) | json_values)
    header = {"__metadata__": metadata} | (tensors if isinstance(tensors, dict) else {})
    whole = written(json.dumps(header).encode(), bytes(4))
    (folder / "x.safetensors").write_bytes(data.draw(st.just(whole) | st.binary(max_size=100) | st.just(whole[: len(whole) // 2])))
    try:
        from_dict(checkpoint.read(folder / "x.safetensors")[1])
    except MISTAKES as error:
        fine(error)


KEYS = [
    "task",
    "adapter",
    "adapter.rank",
    "adapter.grid",
    "seed",
    "source.root",
    "trainer.epochs",
    "name",
    "hydra.mode",
    "+x",
    "~task",
    "image_size",
]
words = st.tuples(st.sampled_from(KEYS) | texts, st.sampled_from(["=", "", "==", "@a="]), texts | odd_words).map("".join)


@slower
@given(many=st.lists(words, min_size=1, max_size=3))
def test_override_strings(many):
    register()
    close_environment()
    try:
        check_words(many)
        with initialize_config_module("configs", version_base="1.3"):
            to_runs(compose("config", overrides=["backbone=test_vit", *many]))
    except MISTAKES as error:
        fine(error)


@fuzz
@given(
    many=st.lists(st.tuples(st.sampled_from(["task=", "root=", "image_size=", "source=", ""]), texts | odd_words).map("".join), max_size=3)
)
def test_words_of_prepare(many):
    try:
        order = parse(PrepareRequest, many)
        order.tasks(order.make(order.source))
    except MISTAKES as error:
        fine(error)


path_parts = st.sampled_from(["~", "/", "..", ".", "a", "é", " ", "#", "=", "\\", "gs://", "nobody"])
paths = st.lists(path_parts | texts | odd_words, max_size=5).map("".join)


def is_folder(path: str) -> bool:
    with suppress(ValueError):  # half a character after "~"
        return os.path.isdir(os.path.expanduser(path))  # noqa: PTH111, PTH112  (a Path takes less)
    return False


@fuzz
@given(path=paths)
@example(path="~\ud800")
def test_paths(folder, path):
    """In a setting, in a command's argument, in a list, and as a set of images."""
    assume(not is_folder(path))  # "//" is a whole disk
    asks = [
        lambda: local(path),
        lambda: Source("x", root=path).location(find("dtd")),
        lambda: Folder(root=path).check(find("dtd")),
        lambda: Backbone("x", "x", "vit_tiny_patch16_224", "hub", "half", checkpoint=path or "x").file(),
        lambda: foreign.parse(f"folder={shlex.quote(path)}").check(None),
        lambda: store.read(local(path)),
    ]
    for ask in asks:
        try:
            ask()
        except MISTAKES as error:
            fine(error)
    quoted = path.replace('"', '\\"')
    with suppress(*MISTAKES):
        check_words([f'results="{quoted}"', f"source.root={path}"])


@fuzz
@given(
    values=st.lists(st.sampled_from([0, 1, 2, 3, 128, 254, 255]) | st.integers(0, 255), min_size=16, max_size=16),
    mode=st.sampled_from(["L", "P", "1", "RGB", "I;16"]), size=st.sampled_from([(4, 4), (2, 8), (4, 3)]),
    content=st.none() | st.binary(max_size=60), cut=st.integers(0, 200),
)  # fmt: skip
def test_masks(folder, values, mode, size, content, cut):
    """Classes with gaps, void alone, other modes and sizes, and files that are none."""
    root = folder / "segmentation"
    for number, split in enumerate(segmentation.SIZES):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / split / "images" / "a.png")
        Image.frombytes("L", size, bytes(values)[: size[0] * size[1]]).convert(mode).save(root / split / "masks" / "a.png")
    last = root / "test" / "masks" / "a.png"
    if content is not None:
        last.write_bytes(last.read_bytes()[:cut] + content)
    try:
        loaded = segmentation.load(str(root), 4)
    except MISTAKES as error:
        fine(error)
    else:
        for pairs in loaded.splits.values():
            classes = set(np.unique(pairs.masks).tolist()) - {segmentation.IGNORED}
            assert classes and classes <= set(range(loaded.classes)) and loaded.classes > 1


@fuzz
@given(content=contents, header=st.booleans())
def test_reported_figures(folder, content, header):
    (folder / "x.csv").write_bytes((",".join(reported.HEADER) + "\n").encode() * header + content)
    try:
        reported.read(folder / "x.csv")
    except MISTAKES as error:
        fine(error)


@fuzz
@given(cells=st.lists(st.lists(texts | odd_words, min_size=len(reported.HEADER), max_size=len(reported.HEADER)), max_size=3))
def test_reported_figures_of_the_right_width(folder, cells):
    import csv

    with (folder / "y.csv").open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        csv.writer(file).writerows([reported.HEADER, *cells])
    try:
        reported.read(folder / "y.csv")
    except MISTAKES as error:
        fine(error)


@fuzz
@given(content=contents | st.just(b"[" * 3000))
def test_configurations_of_the_users_own(folder, content):
    (folder / "own").mkdir(exist_ok=True)
    (folder / "own" / "x.yaml").write_bytes(content)
    try:
        check_folder(folder / "own")
    except MISTAKES as error:
        fine(error)
