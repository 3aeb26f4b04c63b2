"""Parameter counts: every method at every grid point against the formulas of the protocol document."""

import pytest
import timm
import torch

from pvera.models.classifier import count
from tests.helpers.models import CASES, CLASSES, DEPTH, EIGHT, HIDDEN, RELEASED, WIDTH, classifier, new_parameters, vit

PUBLISHED = {name: new for name, new in CASES.items() if new.name in EIGHT}  # the protocol document has no other method
SIZES = {"small": (384, 12, 1536), "base": (768, 12, 3072), "large": (1024, 24, 4096)}  # width d, blocks L, MLP width h


def formula(new, d: int, blocks: int, h: int) -> int:
    """The protocol document's count of new parameters without the head; a bottleneck of m has 2 d m weights and m + d biases."""
    if new.name in ("bottleneck", "adaptformer"):
        m = d // new.reduction
        pair = 2 * d * m + m + d
        return blocks * (2 * pair if new.name == "bottleneck" else pair + 1)
    counts = {
        "linear_probe": lambda: 0,
        "ia3": lambda: blocks * (2 * d + h),
        "lora": lambda: 4 * blocks * new.rank * d,
        "dora": lambda: 4 * blocks * new.rank * d + (0 if new.released_norm else 2 * d * blocks),
        "vera": lambda: 2 * blocks * (new.rank + d),
        "pvera": lambda: 2 * blocks * (2 * new.rank + d) + options(new, blocks),
    }
    return counts[new.name]()


def options(pvera, blocks: int) -> int:
    """What PVeRA's other posteriors and priors add: two vectors, one number for each layer and branch, or one."""
    posterior = {"mixture": 2 * blocks * 2 * pvera.rank, "student_t": 2 * blocks * pvera.learn_df}.get(pvera.posterior, 0)
    return posterior + {"fixed": 0, "learned": 1, "learned_per_layer": 2 * blocks}[pvera.prior]


@pytest.fixture(scope="module", params=SIZES)
def dinov2(request):
    with torch.device("meta"):
        model = timm.create_model(f"vit_{request.param}_patch14_dinov2", num_classes=0, global_pool="token", img_size=224)
    return request.param, model


def test_parameter_counts_of_vit_s_b_and_l_at_every_grid_point(dinov2):
    size, backbone = dinov2
    counts: dict[str, list[int]] = {}
    for name, case in PUBLISHED.items():
        settings = {key: getattr(case, key) for key in RELEASED if hasattr(case, key)}
        for point, new in type(case)(**settings).points():
            found = new_parameters(backbone, new)
            assert found == formula(new, *SIZES[size]), (name, point)
            counts.setdefault(name, []).append(found)
    rounded = {name: [round(n / 1e6, 1 if n > 2e7 else 2) for n in found] for name, found in counts.items()}
    published = {  # the table of the protocol document
        "small": {"ia3": 27_648, "vera": 15_360, "pvera": 21_504, "lora": [0.59, 1.18, 2.36],
                  "adaptformer": [0.89, 0.45, 0.23], "bottleneck": [1.78, 0.90, 0.45]},
        "base": {"ia3": 55_296, "vera": 24_576, "pvera": 30_720, "lora": [1.18, 2.36, 4.72],
                 "adaptformer": [3.55, 1.78, 0.89], "bottleneck": [7.10, 3.56, 1.79]},
        "large": {"ia3": 147_456, "vera": 61_440, "pvera": 73_728, "lora": [3.15, 6.29, 12.58],
                  "adaptformer": [12.61, 6.32, 3.17], "bottleneck": [25.2, 12.6, 6.34]},
    }[size]  # fmt: skip
    for name, expected in published.items():
        if isinstance(expected, int):
            assert set(counts[f"{name}-corrected"]) == {expected}
        else:
            assert rounded[f"{name}-corrected"] == pytest.approx(expected, abs=0.041 if expected[0] > 20 else 0.0101)
    assert counts["dora-released"] == counts["lora-released"]


@pytest.mark.parametrize("new", PUBLISHED.values(), ids=PUBLISHED)
def test_count_is_the_formula_on_a_real_model(new):
    assert count(classifier(new)) == (formula(new, WIDTH, DEPTH, HIDDEN), WIDTH * CLASSES + CLASSES)


@pytest.mark.parametrize("new", CASES.values(), ids=CASES)
def test_count_is_that_of_the_parameters_on_the_meta_device(new):
    assert new_parameters(vit().to("meta"), new) == count(classifier(new))[0]
