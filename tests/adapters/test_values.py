"""Hyper-parameters: bad ones end in one line, and the grid is what it says."""

from dataclasses import asdict, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adapters
from adapters.errors import AdapterError
from adapters.injection import inject
from tests.helpers.models import CASES, EIGHT, adapter, vit

METHODS = adapters.methods()

BAD = [
    ("lora", {"rank": 0}, "adapter.rank must be a whole number above 0, found 0"),
    ("dora", {"rank": -4}, "found -4"),
    ("vera", {"rank": None}, "adapter.rank is not set and adapter.grid has no value for it: set adapter.rank"),
    ("lora", {"rank": 2.5}, "whole number above 0, found 2.5"),
    ("pvera", {"rank": True}, "whole number above 0, found True"),
    ("bottleneck", {"reduction": 0}, "adapter.reduction must be a whole number above 0, found 0"),
    ("adaptformer", {"reduction": -1}, "found -1"),
    ("adaptformer", {"grid": []}, "adapter.reduction is not set"),
    ("ia3", {"lr": 0.0}, "adapter.lr must be a number above 0, found 0.0"),
    ("linear_probe", {"lr": -1e-3}, "found -0.001"),
    ("lora", {"lr": None}, "adapter.lr is not set"),
    ("vera", {"lr": float("nan")}, "found nan"),
    ("vera", {"lr": float("inf")}, "found inf"),
    ("lora", {"lr": "fast"}, "found 'fast'"),
    ("lora", {"layers": []}, "adapter.layers must be distinct block indices from 0, found []"),
    ("lora", {"layers": [0, 0]}, "found [0, 0]"),
    ("lora", {"layers": [-1]}, "found [-1]"),
    ("lora", {"layers": 3}, "found 3"),
    ("lora", {"layers": ["last"]}, "found ['last']"),
    ("lora", {"targets": []}, "adapter.targets must be distinct and among q, k, v, proj, fc1, fc2, found []"),
    ("vera", {"targets": ["q", "q"]}, "found ['q', 'q']"),
    ("pvera", {"targets": ["qkv"]}, "found ['qkv']"),
    ("vera", {"scale": 0.0}, "adapter.scale must be a number above 0"),
    ("vera", {"d_initial": 0.0}, "adapter.d_initial must be a number above 0"),
    ("vera", {"projections": "both"}, "adapter.projections must be one of per_branch, shared, found 'both'"),
    ("pvera", {"fan_in": "out"}, "adapter.fan_in must be one of input, second, found 'out'"),
    ("pvera", {"dropout": 1.0}, "adapter.dropout must be a number of at least 0 and below 1, found 1.0"),
    ("pvera", {"dropout": -0.1}, "found -0.1"),
    ("pvera", {"kl_weight": -1.0}, "adapter.kl_weight must be a number of at least 0, found -1.0"),
    ("pvera", {"kl_weight": float("nan")}, "found nan"),
    ("pvera", {"kl_warmup_epochs": -1}, "adapter.kl_warmup_epochs must be a whole number of at least 0, found -1"),
    ("pvera", {"kl_warmup_epochs": 0.5}, "found 0.5"),
    ("pvera", {"s_initial": -0.1}, "adapter.s_initial must be a number of at least 0, found -0.1"),
    ("vera", {"init": "xavier"}, "adapter.init must be one of kaiming_uniform, normal, orthogonal, found 'xavier'"),
    (
        "vera",
        {"projection_seed": -1},
        "adapter.projection_seed must be a whole number of at least 0 and of at most 4,294,967,295, found -1",
    ),
    ("pvera", {"posterior": "cauchy"}, "adapter.posterior must be one of gaussian, laplace, student_t, mixture, found 'cauchy'"),
    ("pvera", {"prior": "flat"}, "adapter.prior must be one of fixed, learned, learned_per_layer, found 'flat'"),
    ("pvera", {"prior_sigma": 0.0}, "adapter.prior_sigma must be a number above 0, found 0.0"),
    ("pvera", {"posterior": "student_t", "df": 2.0}, "adapter.df must be a number above 2, where Student's t has a variance, found 2.0"),
    ("pvera", {"df": 5.0}, "are Student-t's: set adapter.posterior=student_t, found 'gaussian'"),
    ("lora", {"name": "dora"}, "adapter.name is 'dora' but this adapter is 'lora': choose another with adapter=NAME"),
    (
        "lora",
        {"grid": [{"colour": 3}]},
        "adapter.grid has 'colour', which lora cannot search; it can search alpha, lr, rank, scale, weight_decay",
    ),
    ("lora", {"grid": [{"targets": ["q"]}], "rank": 4}, "adapter.grid has 'targets', which lora cannot search"),
    ("lora", {"search": {"colour": [3]}}, "adapter.search has 'colour', which lora cannot search; it can search"),
    ("lora", {"search": {"layers": [[4], [1]]}}, "adapter.search has 'layers', which lora cannot search"),  # points share frozen blocks
    ("vpt", {"grid": [{"tokens": 2}, {"tokens": 5}]}, "adapter.grid has 'tokens', which vpt cannot search"),  # one length in a pack
    ("lora", {"search": {"lr": []}}, "adapter.search must be lists with a value at least, found {'lr': []}"),
    ("lora", {"search": {"rank": [8, 0]}, "grid": []}, "adapter.rank must be a whole number above 0, found 0"),
    ("lora", {"alpha": None, "rank": 8}, "adapter.alpha is not set and adapter.grid has no value for it"),
    ("vera", {"scale": None}, "adapter.scale is not set and adapter.grid has no value for it"),
    ("ia3", {"weight_decay": -1e-4}, "adapter.weight_decay must be a number of at least 0, found -0.0001"),
    ("lora", {"grid": [{"rank": 8}, {"rank": 0}]}, "adapter.rank must be a whole number above 0, found 0"),
    ("lora", {"grid": [{"rank": 8}, {}]}, "adapter.rank is not set and adapter.grid has no value for it"),
    ("vera", {"grid": [{"lr": "fast"}]}, "adapter.lr must be a number above 0, found 'fast'"),
]


@pytest.mark.parametrize(("name", "settings", "message"), BAD, ids=[f"{name} {settings}" for name, settings, _ in BAD])
def test_bad_values_end_in_one_line(name, settings, message):
    with pytest.raises(AdapterError) as caught:
        METHODS[name](**settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["lora", "ia3", "adaptformer", "bottleneck", "pvera"])
def test_a_block_that_is_not_there(name):
    with pytest.raises(AdapterError, match="^adapter.layers names block 2, but the backbone has blocks 0 to 1$"):
        inject(vit(), adapter(name, layers=[0, 2]), 0)


@pytest.mark.parametrize("name", ["adaptformer", "bottleneck"])
def test_a_reduction_beyond_the_width(name):
    with pytest.raises(AdapterError, match="^adapter.reduction must be at most the backbone's width 32, found 33$"):
        inject(vit(), adapter(name, reduction=33), 0)
    inject(vit(), adapter(name, reduction=32), 0)


# the grid


def test_the_grids_are_the_protocols():
    grids = {name: [point for point, _ in METHODS[name]().points()] for name in EIGHT}
    ranks, reductions, lrs = (
        [{"rank": r} for r in (32, 64, 128)],
        [{"reduction": r} for r in (4, 8, 16)],
        [{"lr": x} for x in (1e-3, 1e-4, 1e-5)],
    )
    assert grids == {
        "linear_probe": [{}], "ia3": [{}], "lora": ranks, "dora": ranks, "vera": lrs, "pvera": lrs,
        "adaptformer": reductions, "bottleneck": reductions,
    }  # fmt: skip
    assert {name: METHODS[name]().lr for name in EIGHT} == dict.fromkeys(EIGHT, 1e-4) | dict.fromkeys(("vera", "pvera", "linear_probe"))
    assert {(METHODS[n]().rank, METHODS[n]().scale) for n in ("vera", "pvera")} == {(256, 16.0)}
    assert {METHODS[n]().alpha for n in ("lora", "dora")} == {16.0}


@pytest.mark.parametrize("new", CASES.values(), ids=CASES)
def test_one_that_is_set_is_one_point(new):
    [(point, same)] = new.points()
    assert point == {} and asdict(same) | {"grid": []} == asdict(new) | {"grid": []}


def test_a_point_without_values_is_a_point_beside_others():
    new = METHODS["adaptformer"](reduction=8, grid=[{"scale": 0.1}, {}, {"reduction": 4}])
    assert [point for point, _ in new.points()] == [{"scale": 0.1}, {}]


positive = st.integers(1, 512)
rates = st.floats(1e-6, 1.0)
points = st.lists(st.fixed_dictionaries({"rank": positive, "lr": rates}, optional={"weight_decay": st.just(0.0)}), min_size=1, max_size=6)


@settings(deadline=None, database=None)
@given(grid=points, rank=st.none() | positive, lr=st.none() | rates)
def test_points_are_the_grid_less_what_is_set(grid, rank, lr):
    new = METHODS["lora"](rank=rank, lr=lr, grid=grid)
    found = new.points()
    searched = [key for key, value in (("rank", rank), ("lr", lr)) if value is None] + ["weight_decay"]
    expected: list[dict] = []
    for point in grid:
        kept = {key: value for key, value in point.items() if key in searched}
        if kept not in expected:
            expected.append(kept)
    assert [point for point, _ in found] == expected and new.active_grid() == ([] if expected == [{}] else expected)
    for point, one in found:
        changed = {f.name: getattr(one, f.name) for f in fields(one) if getattr(one, f.name) != getattr(new, f.name)} | {"grid": None}
        assert changed == point | {"grid": None}
        assert one.points() == [({}, one)] and None not in (one.rank, one.lr)
    assert new.grid == grid  # asking changes nothing


@settings(deadline=None, database=None)
@given(
    product=st.fixed_dictionaries(
        {"rank": st.lists(positive, min_size=1, max_size=3, unique=True), "lr": st.lists(rates, min_size=1, max_size=3, unique=True)}
    )
)
def test_a_product_stays_a_product_and_collapses_along_what_is_set(product):
    grid = [{"rank": rank, "lr": lr} for rank in product["rank"] for lr in product["lr"]]
    both, ranks = METHODS["lora"](lr=None, grid=grid), METHODS["lora"](lr=0.5, grid=grid)
    assert len(both.points()) == len(product["rank"]) * len(product["lr"])
    assert [point for point, _ in ranks.points()] == [{"rank": rank} for rank in product["rank"]]
    assert {one.lr for _, one in ranks.points()} == {0.5}
