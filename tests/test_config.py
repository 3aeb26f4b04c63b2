"""Everything that can be composed composes, and what cannot is refused in one line."""

import copy
from dataclasses import asdict, field, make_dataclass, replace
from pathlib import Path

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import open_dict

from adapters import methods
from data.sources.folder import Folder
from data.sources.offline import Offline
from data.tasks import EXTRA, TASKS
from pvera.command import MISTAKES, explain
from pvera.config import Protocol, from_dict, switches, to_runs
from pvera.errors import UserError
from pvera.rows import digests
from pvera.sweeps import jobs

CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = sorted(str(p.relative_to(CONFIGS / "experiment").with_suffix("")) for p in (CONFIGS / "experiment").rglob("*.yaml"))

PROTOCOLS = ["adapter_plus", "corrected", "noah", "osu", "released"]
#: Every ablation with the number of its jobs, each of which has three seeds.
ABLATIONS = {"kl_weight": 6, "rank": 5, "d_initial": 4, "scale": 4, "targets": 3, "layers": 5, "projection_seed": 5, "init": 3,
             "projections": 2, "prior": 6, "posterior": 4, "convergence": 2}  # fmt: skip
pytestmark = pytest.mark.usefixtures("hydra")


def run(*overrides: str):
    return to_runs(compose("config", overrides=list(overrides)))[0]


@pytest.fixture(scope="module")
def default(hydra):
    """A run that other tests change copies of."""
    return run("adapter=pvera", "task=extra/digits", "backbone=test_vit")


def options(group: str) -> list[str]:
    return GlobalHydra.instance().config_loader().get_group_options(group)


def test_what_one_configuration_changes_no_other_sees():
    """Hydra's store is shared by all, not copied."""
    first, second = (compose("config", overrides=["adapter=lora"]) for _ in range(2))
    with open_dict(first):
        first.adapter.alpha, first.protocol.kl_weight = 99, 1.0
    third = compose("config", overrides=["adapter=lora"])
    assert first.adapter.alpha == 99 and second == third != first


def test_the_groups_hold_what_they_should():
    assert set(options("task")) - {"extra", "fgvc"} == set(TASKS)
    assert len(TASKS) == 19
    assert options("task/extra") == ["digits", "own"]
    assert options("task/fgvc") == ["cub200", "flowers102", "nabirds", "stanford_cars", "stanford_dogs"]
    assert set(options("adapter")) == set(methods())
    assert options("source") == ["auto", "folder", "offline", "tfds"]
    assert options("protocol") == PROTOCOLS
    assert options("trainer") == ["cosine", "default", "smoke"]
    assert options("logger") == ["csv", "none", "tensorboard", "wandb"]


@pytest.mark.parametrize(
    ("adapter", "protocol"),
    [
        pytest.param(adapter, protocol, marks=[] if adapter == "pvera" or protocol == "released" else pytest.mark.slow)
        for adapter in methods()
        for protocol in PROTOCOLS
    ],
)
def test_every_adapter_composes_under_every_protocol(adapter, protocol):
    composed = run(f"adapter={adapter}", f"protocol={protocol}", "backbone=test_vit", "source=offline")  # whose settings need no download
    assert type(composed.adapter) is methods()[adapter]
    for name, switch in switches(methods()[adapter]).items():
        assert getattr(composed.adapter, name) == getattr(composed.protocol, switch)
    assert from_dict(composed.to_dict()).settings() == composed.settings()


@pytest.mark.parametrize("task", [*TASKS, *EXTRA])
def test_every_task_composes_with_its_released_kl_weight(task):
    composed = run(f"task={task}", "protocol=released", "adapter=pvera")
    assert composed.task == (TASKS | EXTRA)[task]
    assert composed.adapter.kl_weight == composed.task.released_kl_weight


@pytest.mark.parametrize("group", ["backbone", "source", "trainer", "logger"])  # launchers need their plugins: test_launchers
def test_every_other_choice_composes(group):
    for choice in options(group):
        assert run(f"{group}={choice}")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_opens_with_its_command(experiment):
    for adapter in ["pvera"] if "ablation" in experiment else ["linear_probe", "lora"] + ["bitfit", "oft"] * (experiment == "demo_all"):
        composed = run(f"experiment={experiment}", f"adapter={adapter}")  # of several seeds the first
        assert [point for point, _ in composed.adapter.points()]
    text = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text()
    assert f"python -m pvera experiment={experiment}" in text


@pytest.mark.parametrize(
    ("name", "runs", "more"),
    [
        pytest.param(name, runs, more, marks=[] if name in ("prior", "targets") else pytest.mark.slow, id=f"{name}-{len(more)}")
        for name, runs in ABLATIONS.items()
        for more in ([], ["ablation/full"])
    ],
)
def test_an_ablation_sweeps_different_runs_of_one_task(name, runs, more):
    asked = [f"experiment=[{','.join([f'ablation/{name}', *more])}]"]
    config = compose("config", overrides=[*asked, "task=dmlab"] if more else asked, return_hydra_config=True)
    with open_dict(config):
        config.hydra.overrides.task = [*asked, "task=dmlab"] if more else asked
    found = jobs.jobs(config)
    assert len(found) == runs
    swept = [jobs.compose(config, job)[0] for job in (found[:1] if more else found)]  # the same settings vary in both
    assert len(swept) == len({digests.digest(digests.settings(one.adapter)) for one in swept})
    assert {(one.name, one.trainer.epochs < 500, bool(one.limited), one.protocol.retrain) for one in swept} == {
        (f"ablation/{name}", not more, not more, bool(more))
    }


def test_the_released_kl_weight_of_the_ablation_is_the_tasks_own():
    config = compose("config", overrides=["experiment=ablation/kl_weight", "task=dmlab"], return_hydra_config=True)
    weights = [jobs.compose(config, job)[0].adapter.kl_weight for job in jobs.jobs(config)]
    assert weights == [0, 1e-16, 1e-3, 1e-2, 1e-1, 1]


def test_there_are_as_many_experiments_as_we_say():
    ablations = {f"ablation/{name}" for name in (*ABLATIONS, "base", "full", "kl_warmup", "rate", "start", "start_vera")}
    field = {f"field/{name}" for name in (*PROTOCOLS, "compare") if name not in ("corrected", "released")}
    assert set(EXPERIMENTS) == {"demo", "demo_all", "paper", "real6"} | ablations | field


RECIPES = {
    "noah": ("folder", "pil_bicubic", "imagenet", [{}], 1e-3, "loss", (1e-6, 1e-5, False), [42]),
    "osu": ("folder", "pil_bicubic", "none", [{"lr": lr, "weight_decay": w} for lr in (1e-3, 1e-2) for w in (1e-4, 1e-3)], None, "accuracy",
            (1e-6, 1e-5, False), [42]),
    "adapter_plus": ("tfds", "tf_bilinear", "half", [{}], 1e-3, "loss", (1e-5, 1e-6, True), [18, 45, 25]),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_protocol_of_the_field_is_a_whole_recipe(name):
    source, resize, normalisation, points, lr, select_by, rates, seeds = RECIPES[name]
    runs = to_runs(compose("config", overrides=[f"protocol={name}", "adapter=ia3", "task=dtd"]))
    one, trainer = runs[0], runs[0].trainer
    assert [each.seed for each in runs] == seeds
    assert (one.backbone.timm, one.source.name) == ("vit_base_patch16_224.orig_in21k", source)
    assert (one.source.resize, one.source.normalisation) == (resize, normalisation)
    assert [point for point, _ in one.adapter.points()] == points and one.adapter.lr == lr
    assert (trainer.epochs, trainer.batch_size, trainer.head_lr, trainer.weight_decay) == (100, 64, None, 1e-4)
    assert (trainer.schedule, trainer.warmup_epochs, trainer.drop_path, trainer.label_smoothing) == ("cosine", 10, 0.1, 0)
    assert (trainer.first_lr, trainer.last_lr, trainer.warmup_prefix) == rates
    assert trainer.fixed_length and trainer.drop_last and trainer.select_by == select_by
    assert one.retrains() and one.shortened() == []
    others = asdict(one.protocol) | {"name": "corrected", "epochs": 500, "dropout": 0}
    assert others == asdict(Protocol())  # otherwise as corrected


def test_noah_has_the_dropout_of_the_methods_that_publish_it():
    rates = {
        name: run("protocol=noah", f"adapter={name}").adapter.dropout for name, method in methods().items() if hasattr(method, "dropout")
    }
    published = {"adaptformer", "convpass", "fact", "repadapter", "vpt"}
    assert rates == {name: 0.1 if name in published else 0 for name in rates} and published < rates.keys()
    assert run("protocol=noah", "adapter=fact", "adapter.dropout=0").adapter.dropout == 0
    assert run("adapter=fact").adapter.dropout == 0


def test_settings_of_pefts_types_are_words_of_the_command_line():
    new = run("adapter=peft", "adapter.type=oft", "adapter.config.oft_block_size=16", "+adapter.config.coft=true").adapter
    assert (new.type, new.config, new.label) == ("OFT", {"oft_block_size": 16, "coft": True}, "peft_oft")


def test_what_is_chosen_by_hand_or_by_an_experiment_wins_over_the_protocol():
    chosen = run("protocol=noah", "source=tfds", "backbone=test_vit", "trainer=smoke", "adapter=lora", "adapter.lr=3e-3", "seed=7")
    assert (chosen.source.name, chosen.backbone.name, chosen.trainer.schedule, chosen.seed) == ("tfds", "test_vit", "constant", 7)
    assert {point.lr for _, point in chosen.adapter.points()} == {3e-3} and chosen.protocol.name == "noah"
    demo = run("experiment=demo", "protocol=noah", "trainer.warmup_epochs=1")
    assert (demo.backbone.name, demo.source.name, demo.trainer.epochs) == ("dinov2_vits14_offline", "offline", 5)


@pytest.mark.parametrize(
    ("words", "limited"),
    [
        (["protocol=noah"], []),
        (["protocol=noah", "trainer.epochs=99"], ["at most 99 epochs"]),
        (["protocol=corrected", "trainer.epochs=499"], ["at most 499 epochs"]),
        (["protocol=released"], []),
        (["experiment=field/osu"], []),
    ],
)
def test_a_run_is_limited_if_it_is_shorter_than_its_protocol_says(words, limited):
    assert run(*words, "adapter=ia3").shortened() == limited


@pytest.mark.parametrize("field", ["noah", "osu", "adapter_plus"])
def test_a_sweep_of_the_field_has_eight_adapters_on_every_task_at_their_published_sizes(field):
    config = jobs.load([f"experiment=field/{field}"])
    found = jobs.jobs(config)
    assert len(found) == len({tuple(job) for job in found}) == 8 * len(TASKS)
    dtd = {runs[0].adapter.name: runs[0].adapter for job in found if "task=dtd" in job for runs in [jobs.compose(config, job)]}
    sizes = {name: {(p.rank if hasattr(p, "rank") else getattr(p, "reduction", None)) for _, p in a.points()} for name, a in dtd.items()}
    width = 12 if field == "osu" else 96
    assert sizes == {"linear_probe": {None}, "ia3": {None}, "lora": {8}, "dora": {8}, "vera": {256}, "pvera": {256},
                     "adaptformer": {width}, "bottleneck": {96}}  # fmt: skip
    assert {len(adapter.points()) for adapter in dtd.values()} == {4 if field == "osu" else 1}


def test_a_search_is_every_combination_with_the_grid():
    words = ["adapter=lora", "adapter.grid=[{rank:4,alpha:1},{rank:8,alpha:2}]", "adapter.search.weight_decay=[0,1e-3]"]  # + or not
    found = run(*words, "adapter.alpha=null")
    both = [{"rank": rank, "alpha": alpha, "weight_decay": w} for rank, alpha in ((4, 1), (8, 2)) for w in (0, 1e-3)]
    assert [point for point, _ in found.adapter.points()] == found.settings()["adapter"]["grid"] == both
    by_hand = run("adapter=lora", "adapter.alpha=null", f"adapter.grid={both}".replace("'", "").replace(" ", ""))
    assert by_hand.settings() == found.settings()
    assert [point for point, _ in run(*words, "adapter.weight_decay=0.5", "adapter.rank=2").adapter.points()] == [{}]


def test_corrected_is_the_schema_default():
    assert run().protocol == Protocol()


def test_a_value_set_by_hand_wins_over_the_protocol():
    assert run("protocol=released", "adapter=vera", "adapter.d_initial=0.5").adapter.d_initial == 0.5


def test_the_digest_covers_what_changes_the_numbers_and_nothing_else():
    base = run("adapter=lora").settings()
    same = ["device=cpu", "results=elsewhere", "name=other", "logger=[csv,wandb]", "limited=why", "pack=1"]
    assert run("adapter=lora", *same).settings() == base
    changes = ["seed=1", "adapter.rank=64", "adapter.alpha=8", "adapter=dora", "image_size=98", "precision=bf16", "trainer.epochs=3",
               "protocol=released", "source.resize=tf_bilinear", "source.normalisation=half", "source.test_limit=5", "backbone=test_vit",
               "task=dsprites_ori", "backbone.pos_embed_antialias=false", "trainer.schedule=cosine", "trainer.fixed_length=true",
               "trainer.select_by=accuracy", "trainer.drop_path=0.1", "trainer.drop_last=true", "trainer.label_smoothing=0.1",
               "trainer.head_lr=null", "adapter.weight_decay=0.1", "+adapter.search.weight_decay=[0.1]"]  # fmt: skip
    assert all(run("adapter=lora", override).settings() != base for override in changes)


PARTS = ("adapter", "protocol", "trainer", "source", "backbone", "task")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("mark", ["later", "digest"])
def test_a_field_that_is_added_to_a_part_leaves_every_digest_as_it_was(default, part, mark):
    """At its default if it was added later, at any value if it has no effect on the numbers."""
    composed = copy.copy(default)
    before = digests.digest(composed.settings())
    extended = copy.copy(getattr(composed, part))
    added = ("added", float, field(default=0.5, metadata={"later": True} if mark == "later" else {"digest": False}))
    kind = type(extended)
    extended.__class__ = make_dataclass("Extended", [added], bases=(kind,), namespace={"__module__": kind.__module__})
    setattr(composed, part, extended)
    assert extended.added == 0.5 and digests.digest(composed.settings()) == before
    extended.added = 0.6
    assert (digests.digest(composed.settings()) == before) == (mark == "digest")


def test_the_digest_of_one_run_is_pinned(monkeypatch):
    """No change of the code may move it, apart from the fingerprint of the data."""
    monkeypatch.setattr(Offline, "fingerprint", lambda self, task: "0" * 64)
    earlier = ["adapter.d_initial=0.1", "adapter.s_initial=null"]  # the defaults of when it was pinned
    settings = run("adapter=pvera", "task=extra/digits", "backbone=test_vit", "image_size=32", *earlier).settings()
    assert digests.digest(settings) == "431e410c8f540fc28dc8a37fab3f1929f75887bc6d224d7a301169ce7bfdb7a7"


def test_names_and_places_do_not_count_for_the_digest():
    base, changes = run("adapter=lora", "backbone=test_vit"), ["backbone.name=mine", "backbone.description=mine"]
    assert run("adapter=lora", "backbone=test_vit", *changes).settings() == base.settings()
    assert digests.settings(Folder(root="/a")) == digests.settings(Folder(root="/b"))
    assert digests.settings(replace(base.adapter, checkpoint="a")) == digests.settings(replace(base.adapter, checkpoint="b"))


@pytest.mark.parametrize(("words", "adapters"), [([], 8), (["adapter=lora"], 1), (["adapter=lora,dora"], 2)])
def test_the_papers_sweep_is_of_all_eight_adapters_or_of_those_named(words, adapters):
    config = jobs.load(["experiment=paper", *words])
    found = jobs.jobs(config)
    assert len(found) == len({tuple(job) for job in found}) == adapters * len(TASKS)
    [runs] = [jobs.compose(config, job) for job in found if {"adapter=lora", "task=dtd"} <= set(job)]
    assert [(r.adapter.name, r.task.name, r.seed, r.protocol.name, r.name) for r in runs] == [
        ("lora", "dtd", seed, "released", "paper") for seed in range(3)
    ]


def test_a_list_of_seeds_is_a_run_for_each():
    both = to_runs(compose("config", overrides=["adapter=lora", "seed=[3,5]"]))
    assert [one.settings() for one in both] == [run("adapter=lora", f"seed={seed}").settings() for seed in (3, 5)]


def test_a_grid_that_is_not_searched_does_not_change_the_digest():
    assert run("adapter=lora", "adapter.rank=32").settings() == run("adapter=lora", "adapter.rank=32", "adapter.grid=[]").settings()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["adapter=loar"], " ".join(methods())),
        (["task=mnist"], "caltech101"),
        (["experiment=nope"], "demo"),
        (["adapter.rnk=3"], "adapter.rnk is no setting; there are"),
        (["+adapter.rnk=3"], "adapter.rnk is no setting; there are"),
        (["+colour=3"], "colour is no setting; there are adapter"),
        (["seed=x"], "seed must be a whole number of at least 0 and of at most 4,294,967,295, or a list of such, found 'x'"),
        (["seed=-1"], "seed must be a whole number"),
        (["seed=[0,1.5]"], "seed must be a whole number"),
        (["seed=[1,1]"], "seed must be a number or a list of different ones"),
        (["seed=[]"], "seed must be a number or a list of different ones"),
        (["pack=0"], "pack must be at least 1"),
        (["device=tpu"], "device must be auto, cpu, cuda, cuda:N or mps, found 'tpu'"),
        (["precision=fp16"], "precision must be one of fp32, bf16, auto"),
        (["adapter=lora", "adapter.rank=0"], "adapter.rank must be"),
        (["adapter=lora", "adapter.rank=1.5"], "adapter.rank"),
        (["adapter=lora", "adapter.lr=-1e-3"], "adapter.lr must be"),
        (["adapter=lora", "adapter.targets=[q,z]"], "adapter.targets must be"),
        (["adapter=lora", "adapter.name=mine"], "adapter.name is 'mine'"),
        (["adapter=lora", "adapter.grid=[{size:3}]"], "adapter.grid has 'size'"),
        (["trainer.epochs=0"], "trainer.epochs must be a whole number above 0"),
        (["trainer.head_lr=-1"], "trainer.head_lr must be a number above 0"),
        (["trainer.schedule=linear"], "trainer.schedule must be one of constant, cosine, found 'linear'"),
        (["trainer.select_by=test"], "trainer.select_by must be one of loss, accuracy, found 'test'"),
        (["trainer.drop_path=1"], "trainer.drop_path must be a number of at least 0 and below 1, found 1"),
        (["trainer.label_smoothing=-0.1"], "trainer.label_smoothing must be a number of at least 0 and below 1, found -0.1"),
        (["trainer.warmup_epochs=1.5"], "trainer.warmup_epochs"),
        (["trainer.warmup_epochs=2"], "trainer.warmup_epochs is for trainer.schedule=cosine and must be 0 for constant, found 2"),
        (["protocol.epochs=0"], "protocol.epochs must be a whole number above 0, found 0"),
        (["protocol=noah", "trainer.epochs=5"], "trainer.warmup_epochs must be below trainer.epochs, 5, found 10: set both"),
        (
            ["protocol=noah", "adapter.lr=1e-6"],
            "trainer.last_lr must be at most every learning rate of a cosine schedule, 1e-06, found 1e-05",
        ),
        (["protocol=released", "trainer.select_by=accuracy"], "trainer.select_by=accuracy has no margin of a loss: set protocol.select_by"),
        (["adapter=linear_probe", "trainer.head_lr=null"], "trainer.head_lr is null, so the head has the rate adapter.lr, but that is not"),
        (["adapter=lora", "+adapter.search.size=[3]"], "adapter.search has 'size', which lora cannot search"),
        (["task.classes=3"], "task.classes is 16"),
        (["source.resize=nearest"], "source.resize must be one of"),
        (["source.root=x"], "source=offline has no root: leave it out"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_there_is(overrides, said):
    with pytest.raises(MISTAKES) as caught:
        run(*overrides)
    line = explain(caught.value)
    assert said in line
    assert "\n" not in line


def test_a_saved_run_of_an_unknown_adapter_is_refused():
    saved = run().to_dict()
    with pytest.raises(UserError, match="cannot|not one that this version"):
        from_dict(saved | {"adapter": saved["adapter"] | {"name": "ninth"}})
    assert asdict(from_dict(saved).trainer) == saved["trainer"]


HUGE = ["inf", "-inf", "nan"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [(setting, value) for index, setting in enumerate([
        "trainer.head_lr", "trainer.weight_decay", "trainer.min_improvement", "protocol.kl_weight", "protocol.d_initial",
        "adapter.kl_weight", "adapter.scale", "adapter.lr", "adapter.d_initial", "adapter.s_initial", "adapter.dropout", "adapter.df",
        "adapter.prior_sigma", "lora.alpha", "dora.alpha", "lora.lr",
    ]) for value in ([*HUGE, "-1"] if index == 0 else [[*HUGE, "-1"][index % 4]])],
)  # fmt: skip
def test_no_number_is_infinite_nan_or_negative(setting, value):
    part, _, name = setting.partition(".")
    words = [f"adapter={part}", f"adapter.{name}={value}"] if part in methods() else ["adapter=pvera", f"{setting}={value}"]
    with pytest.raises(MISTAKES, match=f"{name} must be .*number.*, found {value}") as caught:
        run(*words)
    assert "\n" not in explain(caught.value)


@pytest.mark.parametrize("value", ["inf", "nan", "0", "true"])
def test_no_grid_has_such_numbers_either(value):
    with pytest.raises(MISTAKES, match="adapter.lr must be a number above 0"):
        run("adapter=lora", "adapter.rank=8", f"adapter.grid=[{{lr:1e-3}},{{lr:{value}}}]", "adapter.lr=null")


@pytest.mark.parametrize("setting", ["lora.alpha", "dora.alpha", "vera.scale", "pvera.scale", "bottleneck.reduction", "lora.rank"])
def test_an_update_that_would_always_be_zero_is_refused(setting):
    adapter, _, name = setting.partition(".")
    with pytest.raises(MISTAKES, match=f"adapter.{name} must be a .*number above 0, found 0"):
        run(f"adapter={adapter}", f"adapter.{name}=0")


@pytest.mark.parametrize("seed", [2**32, 10**30])
@pytest.mark.parametrize("setting", ["seed", "adapter.projection_seed"])
def test_a_seed_above_the_limit_is_refused(setting, seed):
    with pytest.raises(MISTAKES, match="of at most 4,294,967,295"):
        run("adapter=vera", f"{setting}={seed}")


def test_the_largest_seed_seeds_everything():
    import torch

    from adapters.base import Site

    composed = run("adapter=vera", "adapter.rank=2", f"seed={2**32 - 1}", "adapter.d_initial=null", f"adapter.projection_seed={2**32 - 1}")
    shared = composed.adapter.init_shared([Site(0, "q", 4, 4)], composed.seed)
    assert 0 < shared[1].uniform() < 1
    torch.Generator().manual_seed(composed.seed)


BOOLEANS = ["compile", "protocol.zero_up", "protocol.retrain", "adapter.learn_df", "backbone.pos_embed_antialias"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [*(("compile", value) for value in ("2", "1", "0", "-1", "1.0", "on", "yes", "'true'")), *((setting, "1") for setting in BOOLEANS[1:])],
)
def test_a_switch_is_true_or_false(setting, value):
    with pytest.raises(MISTAKES) as caught:
        run("adapter=pvera", f"{setting}={value}")
    assert f"{setting}: must be true or false, found" in explain(caught.value)


def test_true_and_false_are_taken():
    for value in (True, False):
        composed = run("adapter=pvera", "adapter.posterior=student_t", *(f"{setting}={value}" for setting in BOOLEANS))
        for setting in BOOLEANS:
            part, _, name = setting.rpartition(".")
            assert getattr(getattr(composed, part) if part else composed, name) is value


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:1", "cuda:12"])
def test_a_device_may_have_an_index(default, device):
    assert replace(default, device=device).device == device


@pytest.mark.parametrize("device", ["cuda:", "cuda:-1", "cuda:x", "cuda1", "cpu:0", "CUDA", "cuda:9999"])
def test_a_device_that_cannot_be_is_refused(default, device):
    with pytest.raises(UserError, match="device must be auto, cpu, cuda, cuda:N or mps, found"):
        replace(default, device=device)
