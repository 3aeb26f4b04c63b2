"""A checkpoint gives back the model that was trained."""

import pytest
import torch
from safetensors.torch import save_file

from pvera.errors import UserError
from pvera.evaluators.trained import checkpoint_of, restore
from pvera.models import checkpoint
from pvera.overrides import compose_run
from pvera.training.setup import frozen_backbone, learner


def test_the_chosen_point_has_no_value_of_another(tiny, tmp_path):
    """The chosen point sets no scale, which another point of the grid does."""
    run = compose_run([*tiny, "adapter=lora", "adapter.lr=1e-3", "adapter.grid=[{rank:2},{rank:2,scale:64.0},{rank:4,scale:3.0}]"])
    (chosen, adapter), *_ = run.adapter.points()
    trained = learner(run, adapter, frozen_backbone(run, torch.device("cpu"))).model
    for parameter in trained.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    tensors = {name: parameter for name, parameter in trained.named_parameters() if parameter.requires_grad}
    saved = {"run": run.to_dict(), "chosen": chosen, "weights_sha256": run.backbone.weights_sha256()}
    checkpoint.save(path := tmp_path / "seed=0.safetensors", tensors, saved)
    again, model, point = restore(path, "cpu")
    assert point == chosen == {"rank": 2} and again.adapter.scale is None
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), trained.eval()(images))


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("x", "is damaged: its run is not JSON"),
        ("[" * 200_000, "is damaged: its run is not JSON"),
        ("[]", "is damaged: its run is no JSON object"),
        ("{}", "is not an adapter checkpoint of this harness: its run has no run"),
        ('{"run": {}, "weights_sha256": ""}', "its run has no chosen"),
    ],
    ids=["text", "deep", "list", "empty", "part"],
)
def test_a_run_that_is_none_is_one_line(tmp_path, run, said):
    save_file({"a": torch.zeros(1)}, path := tmp_path / "seed=0.safetensors", {"format": checkpoint.FORMAT, "run": run})
    with pytest.raises(UserError, match=said) as caught:
        restore(path, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["segment-seed=0-5cd11d41.json", "ood-seed=0-ab85c066-photos.json"])
def test_what_never_has_a_checkpoint_is_no_run(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="has no checkpoint and is not the row of a run: name a row"):
        checkpoint_of(tmp_path / name)
