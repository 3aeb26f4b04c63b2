"""Adapters out to PEFT and in again: the same images give the same logits in transformers' Dinov2Model, in timm's model and here."""

import json
import shutil
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from peft import IA3Config, LoraConfig, OFTConfig, PveraConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import nn

from adapters import methods
from adapters.errors import AdapterError
from adapters.injection import edits, sampling
from adapters.zoo.lora import LoRA
from pvera.errors import MISTAKES, UserError
from pvera.exchange.methods import METHODS
from pvera.exchange.read import adopt, read
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
from tests.helpers.models import CLASSES, HALF, adapter, batch, train

ALL = ["q", "k", "v", "proj", "fc1", "fc2"]

#: Every method that PEFT has, in the forms that differ there.
OUT = {
    "pvera-shared": adapter("pvera", projections="shared"),
    "pvera-per_branch": adapter("pvera"),
    "pvera-all": adapter("pvera", targets=ALL),
    "pvera-all-shared": adapter("pvera", targets=ALL, projections="shared"),
    "vera-shared": adapter("vera", projections="shared", layers=[1]),
    "vera-per_branch": adapter("vera", targets=["k", "fc2", "v"], scale=3.0),
    "lora": adapter("lora"),
    "lora-all": adapter("lora", targets=ALL, layers=[0]),
    "dora": adapter("dora"),
    "dora-all": adapter("dora", targets=ALL),
    "ia3": adapter("ia3"),
    "oft": adapter("oft", block_size=8, targets=["q", "v", "fc2"], layers=[1]),
}
#: Methods whose update PEFT holds as a LoRA.
AS_LORA = {
    "lora-scale": adapter("lora", scale=0.7),
    "rslora": adapter("rslora"),
    "pissa": adapter("pissa", targets=["q", "v", "fc1"], layers=[1]),
    "pissa-alpha": adapter("pissa", alpha=4.0),
}
QV, EVERY = ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]

#: Checkpoints as PEFT makes them, with the name of our adapter.
IN = {
    "pvera": ("pvera", PveraConfig(r=4, target_modules=QV)),
    "pvera-all": ("pvera", PveraConfig(r=4, target_modules=EVERY, pvera_dropout=0.1)),
    "pvera-restored": ("pvera", PveraConfig(r=4, target_modules=EVERY, save_projection=False, projection_prng_key=3)),
    "vera": ("vera", VeraConfig(r=4, target_modules=QV)),
    "vera-restored": ("vera", VeraConfig(r=4, target_modules=["k_proj", "fc1"], save_projection=False)),
    "vera-one-layer": ("vera", VeraConfig(r=4, target_modules=QV, layers_to_transform=[0])),
    "lora": ("lora", LoraConfig(r=4, target_modules=EVERY, lora_alpha=12)),
    "lora-pattern": ("lora", LoraConfig(r=4, target_modules=r".*layer\.1\.attention\.[qv]_proj")),
    "lora-pattern-first": ("lora", LoraConfig(r=4, target_modules=r".*layer\.0\.attention\.[qv]_proj")),
    "lora-pattern-all": ("lora", LoraConfig(r=4, target_modules=r".*\.(q|v|o)_proj")),
    "lora-index-first": ("lora", LoraConfig(r=4, target_modules=["0.attention.q_proj", "0.attention.v_proj"])),
    "lora-excluded": ("lora", LoraConfig(r=4, target_modules=QV, exclude_modules=r".*layer\.1\..*")),
    "lora-dropout": ("lora", LoraConfig(r=4, target_modules=QV, lora_dropout=0.1)),
    "lora-gaussian": ("lora", LoraConfig(r=4, target_modules=QV, init_lora_weights="gaussian")),
    "lora-orthogonal": ("lora", LoraConfig(r=4, target_modules=QV, init_lora_weights="orthogonal")),
    "rslora": ("rslora", LoraConfig(r=4, target_modules=QV, use_rslora=True)),
    "oft": ("oft", OFTConfig(oft_block_size=8, target_modules=EVERY, use_cayley_neumann=False)),
    "lora-random": ("lora", LoraConfig(r=4, target_modules=QV, init_lora_weights=False)),
    "dora": ("dora", LoraConfig(r=4, target_modules=QV, use_dora=True, lora_dropout=0.2)),
    "pvera-pattern-first": ("pvera", PveraConfig(r=4, target_modules=r".*layer\.[0]\..*\.(fc1|q_proj)")),
    "ia3": ("ia3", IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"])),
}
FUSED = {
    "pvera": ("pvera", PveraConfig(r=4, target_modules=["qkv"])),
    "vera": ("vera", VeraConfig(r=4, target_modules=["qkv", "fc1"])),
    "lora": ("lora", LoraConfig(r=4, target_modules=["qkv", "attn.proj"])),
    "dora": ("dora", LoraConfig(r=4, target_modules=["qkv"], use_dora=True)),
    "rslora": ("rslora", LoraConfig(r=4, target_modules=["qkv"], use_rslora=True)),
    "oft": ("oft", OFTConfig(oft_block_size=8, target_modules=["qkv"], use_cayley_neumann=False)),
}


@cache
def example(name: str) -> Classifier:
    """The trained model of OUT[name]."""
    return trained(OUT[name])


def assert_same(found, expected) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def randomise(model: nn.Module) -> nn.Module:
    """Moves all that PEFT trains away from its start."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def test_the_twin_is_the_same_model():
    assert_same(twin(dinov2())(pixels()), dinov2()(pixel_values=pixels()).pooler_output)
    assert_same(earlier_dinov2()(pixel_values=pixels()).pooler_output, dinov2()(pixel_values=pixels()).pooler_output)


# out


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


# in


@pytest.mark.filterwarnings("ignore:Specified to not")
@pytest.mark.parametrize("name", IN)
def test_a_checkpoint_of_peft_gives_the_same_logits_here_and_trains_on(name, tmp_path):
    kind, config = IN[name]
    config.modules_to_save = ["classifier"]
    model = randomise(get_peft_model(with_classifier(dinov2()), config))
    model.save_pretrained(str(tmp_path))
    mine = start_from(kind, tmp_path)
    assert_same(ours(mine), theirs(model))
    new = next(edits(mine)).adapter
    before = ours(mine)
    train(mine, new, steps=1)
    assert (ours(mine) - before).abs().max() > 1e-3
    again = export(mine, tmp_path / "again")
    assert_same(theirs(load(with_classifier(dinov2()), again)), ours(mine))


@pytest.mark.parametrize("name", FUSED)
def test_a_checkpoint_of_timms_fused_layer(name, tmp_path):
    kind, config = FUSED[name]
    config.modules_to_save = ["head"]
    backbone = twin(dinov2())
    backbone.reset_classifier(CLASSES)
    model = randomise(get_peft_model(backbone, config))
    model.save_pretrained(str(tmp_path))
    assert_same(ours(start_from(kind, tmp_path)), theirs(model))


def test_what_the_checkpoint_decides(tmp_path):
    config = VeraConfig(r=6, target_modules=["v_proj", "fc1"], vera_dropout=0.25, layers_to_transform=[1])
    get_peft_model(dinov2(), config).save_pretrained(str(tmp_path))
    new = adopt(adapter("vera", checkpoint=str(tmp_path), lr=0.5))
    assert (new.rank, new.targets, new.layers, new.dropout, new.scale, new.projections, new.lr) == (
        6, ["v", "fc1"], [1], 0.25, 1.0, "shared", 0.5,
    )  # fmt: skip
    assert adopt(new) == new  # as when a run is rebuilt
    mine = classifier(new)
    assert not read(tmp_path).head
    assert torch.equal(mine.head.weight, classifier(adapter("vera")).head.weight)  # a new classifier, of the seed


def test_a_scale_does_not_replace_the_alpha_of_a_checkpoint(tmp_path):
    get_peft_model(dinov2(), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"])).save_pretrained(str(tmp_path))
    new = adopt(adapter("lora", checkpoint=str(tmp_path), scale=0.1, search={"scale": [0.1, 1.0], "weight_decay": [0.0, 0.1]}))
    assert (new.scale, new.alpha, new.search) == (None, 8.0, {"weight_decay": [0.0, 0.1]})


def test_a_checkpoint_is_found_from_other_folders(tmp_path, monkeypatch):
    get_peft_model(dinov2(), LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(str(tmp_path / "lora"))
    monkeypatch.chdir(tmp_path)
    assert adopt(adapter("lora", checkpoint="lora")).checkpoint == str(tmp_path / "lora")


def test_all_blocks_share_one_pair(tmp_path):
    get_peft_model(dinov2(), PveraConfig(r=4, target_modules=QV)).save_pretrained(str(tmp_path))
    pairs = [(edit.A.data_ptr(), edit.B.data_ptr()) for edit in edits(start_from("pvera", tmp_path))]
    assert len(pairs) == 4
    assert len(set(pairs)) == 2  # q and v


@pytest.mark.parametrize("pattern", [r".*layer\.[0-1]\.attention\.q_proj", r".*layer\.\d\.attention\.q_proj"])
def test_a_pattern_over_the_first_blocks_fits_a_deeper_model(pattern, tmp_path):
    model = with_classifier(dinov2(num_hidden_layers=3))
    config = LoraConfig(r=4, target_modules=pattern, modules_to_save=["classifier"], layers_to_transform=None)
    config.exclude_modules = r".*layer\.2\..*"
    model = randomise(get_peft_model(model, config))
    model.save_pretrained(str(tmp_path))
    new = adopt(adapter("lora", checkpoint=str(tmp_path)))
    assert new.layers == [0, 1]
    assert_same(ours(classifier(new, twin(dinov2(num_hidden_layers=3)))), theirs(model))


# sampling


def worst(mine: torch.Tensor, other: torch.Tensor) -> float:
    """The least p value, corrected for their number, of tests that samples (n, ...) of independent draws have one distribution.

    On every logit: Kolmogorov-Smirnov, Welch's of the means, and Levene's of the variances.
    """
    pairs = list(zip(mine.flatten(1).double().T.numpy(), other.flatten(1).double().T.numpy(), strict=True))
    assert min(a.std() for a, _ in pairs) > 0.01  # there is noise to compare
    tests = (stats.ks_2samp, lambda a, b: stats.ttest_ind(a, b, equal_var=False), stats.levene)
    return float(stats.false_discovery_control([test(a, b).pvalue for a, b in pairs for test in tests]).min())


def draws(model: nn.Module, n: int = 2000) -> torch.Tensor:
    """n draws of the logits of one image."""
    if isinstance(model, Classifier):
        with sampling(model, "sample"), torch.no_grad():
            return model.eval()(batch(1)[0].expand(n, -1, -1, -1))
    return theirs(model, pixels(1).expand(n, -1, -1, -1))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pvera-shared", "hf"), ("pvera-all-shared", "hf"), ("pvera-shared", "timm"), ("pvera-per_branch", "timm")],
)
def test_peft_samples_the_same_distribution(name, kind, tmp_path):
    model = example(name)
    backbone = with_classifier(dinov2()) if kind == "hf" else twin(dinov2())
    if kind == "timm":
        backbone.reset_classifier(CLASSES)
    other = load(backbone, export(model, tmp_path, kind, sample=True))
    torch.manual_seed(0)
    mine, found = draws(model), draws(other)
    assert worst(mine, found) > 0.01
    assert worst(mine, 1.2 * (found - found.mean(0)) + found.mean(0)) < 0.01  # the tests would see a fifth more noise


def test_pairs_per_branch_cannot_be_sampled_apart(tmp_path):
    model = example("pvera-per_branch")
    with pytest.raises(UserError, match="PEFT cannot sample pairs A, B per branch: .*, a branch that a layer lacks has sigma 1, not 0"):
        export(model, tmp_path, "hf", sample=True)
    config = tmp_path / "adapter_config.json"
    export(model, tmp_path)
    config.write_text(config.read_text().replace('"sample_at_inference": false', '"sample_at_inference": true'))
    torch.manual_seed(0)
    assert worst(draws(model), draws(load(with_classifier(dinov2()), tmp_path))) < 1e-6  # the reason is true
    with pytest.raises(UserError, match="only pvera samples, and this is vera"):
        export(example("vera-shared"), tmp_path, "hf", sample=True)
    with pytest.raises(UserError, match="PEFT samples a Gaussian, and adapter.posterior is laplace: leave --sample out for the mean"):
        export(classifier(adapter("pvera", projections="shared", posterior="laplace")), tmp_path, "hf", sample=True)


# refusals


@pytest.fixture
def lora(tmp_path):
    """A LoRA checkpoint that can be read."""
    return export(example("lora"), tmp_path / "lora")


def spoil(folder, **settings) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))


def refused(folder, name: str = "lora") -> str:
    with pytest.raises(MISTAKES) as caught:
        start_from(name, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type must be one of IA3, LORA, OFT, PVERA, VERA, found 'LOHA'"),
        ({"peft_type": None}, "found None"),
        ({"bias": "all"}, "bias='all' is out of scope here"),
        ({"layers_pattern": "layer"}, "layers_pattern='layer' is out of scope"),
        ({"use_rslora": True}, "of another method: choose adapter=rslora, not lora"),
        (
            {"peft_type": "OFT", "use_cayley_neumann": True},
            "OFT is read with use_cayley_neumann=False, coft=False, block_share=False alone",
        ),
        # These initialisations change the frozen weights.
        *(({"init_lora_weights": name}, f"init_lora_weights='{name}' is out of scope") for name in ("pissa", "olora", "corda", "loftq")),
        ({"a_future_setting": 1}, "a_future_setting=1 is out of scope"),
        (
            {"modules_to_save": ["classifier", "layernorm"]},
            "modules_to_save may name a classifier (classifier, head) only, found layernorm",
        ),
        ({"use_dora": True}, "of another method: choose adapter=dora, not lora"),
    ],
)
def test_settings_out_of_scope_are_refused_by_name(settings, message, lora):
    spoil(lora, **settings)
    if settings.get("use_dora"):
        with pytest.raises(UserError, match="block 0 has no lora_magnitude_vector of q"):
            read(lora)
        return
    assert message in refused(lora)


def test_of_another_method(lora):
    assert "is of another method: choose adapter=lora, not pvera" in refused(lora, "pvera")
    assert "is of another method: choose adapter=lora, not adaptformer" in refused(lora, "adaptformer")


def test_what_is_no_checkpoint(lora, tmp_path):
    assert "no folder" in refused(tmp_path / "absent")
    assert "it has no adapter_config.json" in refused(tmp_path)
    (lora / "adapter_config.json").rename(lora / "kept")
    assert "it has no adapter_config.json" in refused(lora)
    (lora / "adapter_config.json").write_text("{")
    assert "cannot be read" in refused(lora)
    (lora / "adapter_config.json").write_text("[]")
    assert "is no JSON object" in refused(lora)
    (lora / "kept").rename(lora / "adapter_config.json")
    (lora / "adapter_model.safetensors").write_bytes(b"junk" * 10)
    assert "cannot be read" in refused(lora)
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    message = refused(lora)
    assert "it has no adapter_model.safetensors; adapter_model.bin is a pickle and never opened" in message


def rewrite(folder, change) -> None:
    """Rewrites the tensors by name: a new name, or None to leave one out."""
    file = folder / "adapter_model.safetensors"
    renamed = {change(name): tensor for name, tensor in load_file(file).items()}
    save_file({name: tensor for name, tensor in renamed.items() if name}, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.replace("q_proj", "up_proj"), "cannot place base_model.model.encoder.layer.0.attention.up_proj.lora_A.weight"),
        (lambda n: None if "1.attention.v_proj.lora_B" in n else n, "block 1 has no lora_B.weight of v"),
        (lambda n: None if "1.attention.v_proj" in n else n, "block 1 has no lora_A.weight of v"),
        (lambda n: n if "classifier" in n else None, "it adapts no layer"),
        (lambda n: None if n.endswith("classifier.bias") else n, "its classifier has no bias"),
        (lambda n: None if ".layer.1." in n else n, "of another backbone: it adapts 1 blocks, this one has 2"),
    ],
    ids=["unknown", "half", "uneven", "nothing", "classifier", "blocks"],
)
def test_tensors_that_do_not_fit_together(change, message, lora):
    rewrite(lora, change)
    assert message in refused(lora)


def test_another_width_or_number_of_classes(lora):
    new = adopt(adapter("lora", checkpoint=str(lora)))
    wide = twin(dinov2(hidden_size=64))
    with pytest.raises(UserError, match=r"of another backbone: A of q in block 0 has shape \(48, 8\), the model's is \(64, 8\)"):
        classifier(new, wide)
    with pytest.raises(UserError, match="of another backbone: it adapts 2 blocks, this one has 3"):
        classifier(new, twin(dinov2(num_hidden_layers=3)))
    tensors = load_file(lora / "adapter_model.safetensors")
    head = {name: torch.cat([t, t]) if "classifier" in name else t for name, t in tensors.items()}
    save_file(head, lora / "adapter_model.safetensors")
    assert "of another task: the classifier's" in refused(lora)


def test_vera_of_another_width(tmp_path):
    export(example("vera-per_branch"), tmp_path)
    new = adopt(adapter("vera", checkpoint=str(tmp_path)))
    with pytest.raises(UserError, match="of another backbone"):
        classifier(new, twin(dinov2(hidden_size=64)))
    with pytest.raises(UserError, match="of another backbone"):
        classifier(new, twin(dinov2(hidden_size=32)))


def test_a_checkpoint_of_vera_without_its_projections(tmp_path):
    export(example("vera-per_branch"), tmp_path)
    rewrite(tmp_path, lambda name: None if name.endswith("vera_A") else name)
    assert "it has no base_model.vera_A or base_model.vera_B, though its save_projection is set" in refused(tmp_path, "vera")


@pytest.mark.parametrize(
    ("targets", "feedforward", "message"),
    [
        (["k_proj", "v_proj"], [], "ia3 edits k, v and the activation that fc2 reads; this one k, v"),
        (["k_proj", "v_proj", "fc2"], [], "is a gain that ia3 has not here"),
        (["k_proj", "v_proj", "fc1"], ["fc1"], "is a gain that ia3 has not here"),
        (["q_proj", "k_proj", "v_proj", "fc2"], ["fc2"], "its IA3 scales queries"),
    ],
)
def test_ia3_of_other_layers(targets, feedforward, message, tmp_path):
    config = IA3Config(target_modules=targets, feedforward_modules=feedforward)
    randomise(get_peft_model(dinov2(), config)).save_pretrained(str(tmp_path))
    assert message in refused(tmp_path, "ia3")


def test_the_checksum_is_of_the_contents(lora, tmp_path):
    shutil.copytree(lora, tmp_path / "copy")
    new, copy = (adopt(adapter("lora", checkpoint=str(folder))) for folder in (lora, tmp_path / "copy"))
    assert new.checkpoint_sha256 == copy.checkpoint_sha256
    assert new.checkpoint != copy.checkpoint
    spoil(lora, lora_alpha=3)
    with pytest.raises(UserError, match=r"has sha256 [0-9a-f]{12}, expected " + str(new.checkpoint_sha256)[:12]):
        adopt(new)
    with pytest.raises(AdapterError, match="checkpoint_sha256 is set, but adapter.checkpoint is not"):
        adapter("lora", checkpoint_sha256="0" * 64)
