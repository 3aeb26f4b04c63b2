"""Adapters out to PEFT and in again: the same images give the same logits in transformers' Dinov2Model, in timm's model and here."""

import json
from dataclasses import dataclass

import pytest
from safetensors.torch import load_file

from adapters import methods
from adapters.zoo.lora import LoRA
from pvera.errors import UserError
from pvera.exchange.methods import METHODS
from pvera.exchange.write import lacks
from pvera.models.classifier import Classifier
from tests.helpers.dinov2 import (
    classifier,
    dinov2,
    earlier_dinov2,
    export,
    load,
    ours,
    pixels,
    start_from,
    theirs,
    trained,
    twin,
    with_classifier,
)
from tests.helpers.models import CLASSES, HALF, adapter
from tests.helpers.peft import OUT, assert_same, example

#: Methods whose update PEFT holds as a LoRA.
AS_LORA = {
    "lora-scale": adapter("lora", scale=0.7),
    "rslora": adapter("rslora"),
    "pissa": adapter("pissa", targets=["q", "v", "fc1"], layers=[1]),
    "pissa-alpha": adapter("pissa", alpha=4.0),
}


def test_the_twin_is_the_same_model():
    assert_same(twin(dinov2())(pixels()), dinov2()(pixel_values=pixels()).pooler_output)
    assert_same(earlier_dinov2()(pixel_values=pixels()).pooler_output, dinov2()(pixel_values=pixels()).pooler_output)


@pytest.mark.parametrize(
    ("kind", "make", "name"),
    [
        *(("hf", dinov2, name) for name in OUT),
        # Another name for the same layers.
        *(
            pytest.param("hf-query", earlier_dinov2, name, marks=() if name in ("pvera-all", "dora", "ia3") else pytest.mark.slow)
            for name in OUT
        ),
    ],
)
def test_out_to_dinov2_and_in_again(name, kind, make, tmp_path):
    model = example(name)
    plain = Classifier(twin(dinov2()), model.head, *HALF, bf16=False)
    assert (ours(model) - ours(plain)).abs().max() > 0.05  # the edits are no small thing beside the tolerance
    export(model, tmp_path, kind)
    assert_same(theirs(load(with_classifier(make()), tmp_path)), ours(model))
    assert_same(ours(start_from(OUT[name].name, tmp_path)), ours(model))


@pytest.mark.parametrize("name", [name for name in OUT if name != "oft"])
def test_out_to_timms_fused_layer(name, tmp_path):
    model = example(name)
    export(model, tmp_path, "timm")
    backbone = twin(dinov2())
    backbone.reset_classifier(CLASSES)
    assert_same(theirs(load(backbone, tmp_path)), ours(model))
    if json.loads((tmp_path / "adapter_config.json").read_text()).get("rank_pattern"):
        with pytest.raises(UserError, match="_pattern=.* is out of scope here"):
            start_from(OUT[name].name, tmp_path)
    else:
        assert_same(ours(start_from(OUT[name].name, tmp_path)), ours(model))


@pytest.mark.parametrize("name", AS_LORA)
@pytest.mark.parametrize("kind", ["hf", "timm"])
def test_out_as_a_lora(name, kind, tmp_path):
    model = trained(AS_LORA[name])
    export(model, tmp_path, kind)
    backbone = twin(dinov2())
    backbone.reset_classifier(CLASSES)
    assert_same(theirs(load(with_classifier(dinov2()) if kind == "hf" else backbone, tmp_path)), ours(model))
    if kind == "hf":
        assert_same(ours(start_from("lora", tmp_path)), ours(model))


def test_without_a_classifier_the_adapter_loads_alone(tmp_path):
    model = example("pvera-shared")
    features = load(dinov2(), export(model, tmp_path))(pixel_values=pixels()).pooler_output
    assert_same(model.head(features), ours(model))


def test_the_checkpoint_is_as_small_as_pefts_own(tmp_path):
    """One pair of the given rank where the projections are shared, K times the rank where they are not."""
    rank = OUT["pvera-shared"].rank
    for name, factor in (("pvera-shared", 1), ("pvera-per_branch", 2), ("pvera-all-shared", 1), ("pvera-all", 6)):
        folder = export(example(name), tmp_path / name)
        assert load_file(folder / "adapter_model.safetensors")["base_model.pvera_B"].shape[1] == factor * rank
        assert json.loads((folder / "adapter_config.json").read_text())["r"] == factor * rank


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (adapter("adaptformer"), "PEFT has no adaptformer"),
        (adapter("bottleneck"), "PEFT has no bottleneck"),
        (adapter("fact"), "PEFT has no fact; it has lora, rslora, dora"),
        (adapter("vpt"), "vpt is not written for PEFT: PEFT's prompt tuning is for language models$"),
        (adapter("dora", released_norm=True), "no DoRA with a magnitude per input"),
    ],
    ids=["adaptformer", "bottleneck", "fact", "vpt", "dora-released"],
)
def test_what_peft_has_not_is_refused(new, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export(classifier(new), tmp_path)
    assert not list(tmp_path.iterdir())


@dataclass
class Other(LoRA):
    """LoRA with another product."""

    name: str = "other"

    def delta(self, params, x):
        return (x @ params.A).relu() @ params.B


def test_a_method_derived_from_lora_is_no_lora():
    assert lacks(Other(rank=4)).startswith("PEFT has no other")


def test_every_method_is_written_or_refused_in_one_line():
    reasons = {name: lacks(adapter(name)) for name in methods()}
    assert {name for name, reason in reasons.items() if not reason} == {*METHODS, "pissa"}
    assert all(
        reason.startswith((f"{name} is not written for PEFT: ", f"PEFT has no {name}; ")) for name, reason in reasons.items() if reason
    )
    assert "\n" not in "".join(filter(None, reasons.values()))


def test_a_rotation_for_each_of_the_fused_query_key_and_value_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="PEFT has one rotation for timm's fused query, key and value, and oft one for each: export it with"
    ):
        export(classifier(OUT["oft"]), tmp_path, "timm")
    assert export(trained(adapter("oft", block_size=8, targets=["proj"])), tmp_path, "timm")
