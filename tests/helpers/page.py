"""A report page with everything that one can show."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from pvera.plots import paper
from pvera.report import __main__ as report
from pvera.rows import digests, store
from tests.helpers.rows import keep, run


def draw_one_chart_a_figure(patch: pytest.MonkeyPatch) -> None:
    """The figures of a page or report with the first chart of each panel alone: drawing them all takes most of the time.

    For tests that look at the files, not at the figures. Those of tests/plots draw charts of every kind.
    """
    save = paper.save
    patch.setattr(paper, "save", lambda panel, *words: save(replace(panel, charts=panel.charts[:1]), *words))


EVIL = "<script>window.hacked = 1</script>"
METRICS = {"acc": 0.7, "ace": 0.012, "ece": 0.05, "nll": 0.7, "brier": 0.4}


def path_of(folder, row):
    return digests.path(folder, row.backbone, row.adapter, row.task, row.seed, row.digest)


def uncertainty_report(**changes) -> dict:
    """As python -m pvera.uncertainty leaves it."""
    test = {"groups": [{"mean": 0.5}, {"mean": 0.2}], "probability": 0.8123, "p": 1e-9}
    kind = {
        "metrics": METRICS,
        "reliability": [{"confidence": 0.5, "accuracy": 0.4, "share": 1.0}],
        "wrong_against_correct": {"entropy": test},
        "selective": {"entropy": {"coverage": [0.5, 1.0], "risk": [0.1, 0.3], "aurc": 0.1234}},
    }
    sampled = {"sampled": kind | {"samples": 8}, "by_samples": [METRICS | {"n": n} for n in (1, 2)], "modes": {"mean": METRICS}}
    about = {"adapter": "pvera", "task": "digits", "seed": 0, "images": 400, "limited": True, "limited_reasons": ["3 epochs"]}
    return about | {"mean": kind, "ood": {"dtd": {"images": 50, "mean": {"entropy": test}}}} | sampled | changes


def ood_report(**changes) -> dict:
    """As python -m pvera.ood leaves it."""
    energy = {"auroc": 0.875, "aupr": 0.5, "fpr95": 0.25, "auroc_interval": [0.8, 0.9], "roc": {"fpr": [0, 1], "tpr": [0, 1]}}
    about = {"adapter": "pvera", "task": "digits", "seed": 0, "images": 400, "limited": False, "limited_reasons": []}
    blocks = {"0": {"auroc": 0.5}, "1": {"auroc": 0.75}}
    return about | {"foreign": "dtd", "foreign_images": 50, "scores": {"energy": energy}, "norm_of_mu_by_block": blocks} | changes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with everything that a page can show, and the page."""
    folder = tmp_path_factory.mktemp("made")
    draw, stream = random.Random(0), np.random.default_rng(0)
    few = {"limited": True, "limited_reasons": ["few"]}
    rows = [
        run(adapter, task, seed, adapter_params=size, test_acc=draw.random(), test_ace=draw.random() / 10, **few)
        for adapter, size in (("linear_probe", 0), ("vera", 15360), ("pvera", 21504), (EVIL, 99999))
        for task in ("kitti", "dtd", EVIL)
        for seed in (0, 1)
    ]  # fmt: skip
    rows += [run("vera", settings={"adapter": {"name": "vera", "rank": rank}}, val_loss=1 + rank, protocol="other") for rank in (4, 16, 64)]
    keep(folder, rows)
    for row in rows[2:4]:
        store.save_probabilities(path_of(folder, row), stream.dirichlet([1] * 4, 60), stream.integers(0, 4, 60))
        lines = [
            "epoch,point,cross_entropy,penalty,val_loss,val_acc,kl,sigma",
            "1,lr=0.0001,2,0,1.5,0.5,3,0.9",
            "2,lr=0.0001,1,0,1.25,0.6,2,0.8",
            "2,lr=0.5,9,9,9,9,9,9",  # a point that was not chosen
            "3,lr=0.0001,0.",  # what a killed run leaves
        ]
        path_of(folder, row).with_suffix(".csv").write_text("\n".join(lines))
    path_of(folder, rows[0]).with_name("uncertainty-a.json").write_text(json.dumps(uncertainty_report()))
    path_of(folder, rows[0]).with_name("ood-a-dtd.json").write_text(json.dumps(ood_report()))
    with pytest.MonkeyPatch.context() as patch:
        draw_one_chart_a_figure(patch)
        assert report.main([str(folder), "--with-reported"]) == 0
    return folder, rows, (folder / "report.html").read_text()
