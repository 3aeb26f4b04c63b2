"""The norm of mu over blocks as a score, against plain numbers."""

import numpy as np

from pvera.evaluators.ood import AGGREGATIONS, compare


def test_blocks_are_aggregated_as_named():
    norms = np.array([[1.0, 2.0], [5.0, 0.0], [3.0, 7.0]])  # three blocks, two images
    assert {name: function(norms).tolist() for name, function in AGGREGATIONS.items()} == {
        "mean": [3.0, 3.0], "max": [5.0, 7.0], "first": [1.0, 2.0], "last": [3.0, 7.0],
    }  # fmt: skip
    found = compare(({}, dict(enumerate(norms))), ({}, dict(enumerate(norms + 10))), "last", 0, 0)
    assert found["scores"]["norm of mu"]["auroc"] == 1 and found["norm_of_mu_by_block"][2]["auroc"] == 1
    assert found["norm_of_mu_by_block"][1]["fpr95"] == 0
