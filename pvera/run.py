"""One run from its configuration to its row."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvera import results
from pvera.config import Run, from_dict
from pvera.errors import UserError

if TYPE_CHECKING:
    import torch

    from data.source import Split
    from pvera.model import Classifier
    from pvera.train import Data


@dataclass
class Done:
    """What a run returns: its row's path, and whether it was done now or before."""

    path: Path
    new: bool

    def line(self) -> str:
        """The run and its result in one line."""
        row = results.read(self.path)
        state = f"{row.seconds:.0f} s" if self.new else "done before"
        what = f"{row.adapter} on {row.task}, seed {row.seed}"
        return f"{what}: test accuracy {100 * row.test_acc:.2f} %, ACE {100 * row.test_ace:.2f} % ({state}) {self.path}"


def row_path(run: Run) -> Path:
    """Where the row of this run is, or will be."""
    digest = results.digest(run.settings())
    return results.path(Path(run.results), run.backbone.name, run.adapter.name, run.task.name, run.seed, digest)


def execute(run: Run) -> Done:
    """Does the run unless its row is there already.

    All that can be wrong with the request is found before anything is trained.
    """
    run.source.check(run.task)
    path = row_path(run)
    if path.exists():
        results.read(path)
        return Done(path, new=False)
    results.ensure_writable(Path(run.results))
    run.backbone.check(run.image_size)
    row = None
    try:
        row = _train_and_test(run, path)
        results.write(path, row)  # before the logger hears of it: what it does cannot lose the row
    finally:
        run.logger.finish(asdict(row) if row else None)
    return Done(path, new=True)


def _train_and_test(run: Run, path: Path) -> results.Row:
    import torch

    from pvera import checkpoint, resources, train
    from pvera.calibration import metrics
    from pvera.evaluate import probabilities_of
    from pvera.model import build, count, trainable

    settings = run.settings()
    digest = results.digest(settings)
    device = resources.device(run.device)
    resources.reset_peak_memory(device)
    start = time.perf_counter()
    backbone = _frozen(run, device)

    def learner(adapter: Any) -> train.Learner:
        model = build(backbone, adapter, run.task.classes, run.normalisation(), run.seed, run.precision == "bf16")
        return train.Learner(model, adapter, run.trainer, run.protocol, run.seed)

    points = run.adapter.points()
    learners = [learner(adapter) for _, adapter in points]  # before the data: a width or a block that does not fit shows here
    splits = {name: run.source.load(run.task, name, run.image_size) for name in run.splits()}
    data = {
        name: train.Data(split.images, split.labels, device if name != "test" else torch.device("cpu")) for name, split in splits.items()
    }
    title = f"{run.adapter.name} {run.task.name} seed {run.seed}"

    run.logger.start(settings, run_id=digest[:16], group=run.name, job_type=run.adapter.name, tags=[run.task.name, run.backbone.name])
    several = len(points) > 1

    def report(index: int, figures: dict[str, float]) -> None:
        point = ",".join(f"{key}={value}" for key, value in points[index][0].items())
        run.logger.epoch({f"{point}/{key}" if several and key != "epoch" else key: value for key, value in figures.items()})

    train.fit(learners, data["train800"], data["val200"], report, title)
    best = min(range(len(points)), key=lambda i: learners[i].best_loss)
    chosen = learners[best]
    if run.protocol.retrain:
        final = learner(points[best][1])
        train.refit(final, data["train1000"], chosen.best_epoch, f"{title}, on train1000")
        state = {name: p.detach() for name, p in trainable(final.model)}
    else:
        state = chosen.best_state
    checkpoint.load(chosen.model, state, "the trained model")
    probabilities = probabilities_of(chosen.model, data["test"].images)
    tested = metrics(probabilities, data["test"].labels)
    adapter_params, head_params = count(chosen.model)
    reasons = [run.limited] if run.limited else []
    reasons += [reason for split in splits.values() if (reason := split.limited)]

    results.save_probabilities(path, probabilities.numpy(), splits["test"].labels)
    saved = {"run": run.to_dict(), "chosen": points[best][0], "weights_sha256": run.backbone.weights_sha256()}
    checkpoint.save(path.with_suffix(".safetensors"), state, saved)
    return results.Row(
        schema_version=results.SCHEMA_VERSION, config=settings, digest=digest, experiment=run.name,
        task=run.task.name, group=run.task.group, adapter=run.adapter.name,
        backbone=run.backbone.name, backbone_description=run.backbone.description,
        source=run.source.name, protocol=run.protocol.name, seed=run.seed, image_size=run.image_size, precision=run.precision,
        adapter_params=adapter_params, head_params=head_params,
        grid=[{"point": point, "val_loss": one.best_loss, "val_acc": one.best_accuracy, "best_epoch": one.best_epoch, "epochs": one.epochs}
              for (point, _), one in zip(points, learners, strict=True)],
        chosen=points[best][0], val_loss=chosen.best_loss, val_acc=chosen.best_accuracy, best_epoch=chosen.best_epoch,
        **{f"test_{name}": value for name, value in tested.items()},
        n_train=len(data["train1000" if run.protocol.retrain else "train800"]), n_val=len(data["val200"]), n_test=len(data["test"]),
        limited=bool(reasons), limited_reasons=list(dict.fromkeys(reasons)), first_loss=chosen.first_loss,
        seconds=time.perf_counter() - start, peak_memory=resources.peak_memory(device), device=resources.describe(device),
        data=_data(run.source.name, splits),
        finished=datetime.now(UTC).isoformat(timespec="seconds"), **results.provenance(),
    )  # fmt: skip


def _data(source: str, splits: dict[str, Split]) -> dict[str, Any]:
    """Which images these were: the row's field of this name."""
    versions: dict[str, set[str]] = {}
    for split in splits.values():
        for name, version in split.versions.items():
            versions.setdefault(name, set()).add(version)
    return {
        "source": source,
        "versions": {name: ", ".join(sorted(found)) for name, found in versions.items()},
        "membership": {name: split.membership for name, split in splits.items()},
        "checksum": {name: split.checksum for name, split in splits.items()},
    }


def _frozen(run: Run, device: torch.device) -> Any:
    from pvera.model import hold_in_bf16

    backbone = run.backbone.create(run.image_size).to(device)
    return hold_in_bf16(backbone) if run.precision == "bf16" else backbone


def rebuild(path: Path, root: str | None, device_name: str) -> tuple[Classifier, Data]:
    """The trained model of a checkpoint and the test split it was tested on. `root` says where the data is if not where it was."""
    from pvera import checkpoint, resources, train
    from pvera.model import build

    tensors, saved = checkpoint.read(path)
    run, weights = from_dict(saved["run"]), saved["weights_sha256"]
    if root is not None:
        run.source = replace(run.source, root=root)
    here = run.backbone.weights_sha256()
    if here != weights:
        raise UserError(f"{path} is of another backbone: {run.backbone.name} had the weights {weights[:12]}, here it has {here[:12]}")
    run.source.check(run.task)
    device = resources.device(device_name)
    [(_, adapter)] = replace(run.adapter, **saved["chosen"]).points()
    model = build(_frozen(run, device), adapter, run.task.classes, run.normalisation(), run.seed, run.precision == "bf16")
    checkpoint.load(model, tensors, str(path))
    test = run.source.load(run.task, "test", run.image_size)
    return model, train.Data(test.images, test.labels, device)
