"""What may be in the environment of a run (keys, tokens) is in nothing that it leaves; and what is read runs no code."""

import ast
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from pvera.errors import UserError
from pvera.rows import store
from tests.helpers.command import run as run_command

ROOT = Path(__file__).parents[2]
MARK = "5ec2e7"
SECRETS = {
    "WANDB_API_KEY": (MARK * 7)[:40], "HF_TOKEN": f"hf_{MARK}", "AWS_SECRET_ACCESS_KEY": MARK, "NO_SUCH": f"x{MARK}", "NETRC": "netrc",
}  # fmt: skip


def test_no_secret_of_the_environment_is_in_what_a_sweep_leaves(tmp_path):
    """Row, probabilities, checkpoint, W&B's offline folder with its logs, Hydra's folder, output: every byte is searched."""
    (tmp_path / "home").mkdir()
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {MARK * 6}\n")
    words = ["backbone=test_vit", "task=extra/digits", "image_size=32", "trainer=smoke", "trainer.epochs=1", "trainer.batch_size=400"]
    words += [
        "device=cpu",
        "source.test_limit=20",
        "protocol.retrain=false",
        "adapter=linear_probe",
        "logger=wandb",
        "results=rows",
        "hydra.sweep.dir=hydra",
    ]
    environment = {**os.environ, **SECRETS, "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment |= {"WANDB_MODE": "offline"}
    done = run_command("-m", *words, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "netrc"]
    assert {".json", ".npz", ".safetensors", ".wandb", ".log", ".yaml"} <= {path.suffix for path in left}
    assert [path for path in left if MARK.encode() in path.read_bytes()] == []
    assert MARK not in done.stdout + done.stderr


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_probabilities_that_hold_a_pickle_are_refused(tmp_path):
    array = np.array([Bomb(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "seed=0.npz", probabilities=array, labels=np.zeros(1))
    with pytest.raises(UserError, match="does not hold the arrays"):
        store.load_probabilities(tmp_path / "seed=0.json")
    (tmp_path / "seed=0.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(UserError, match="does not hold the arrays"):
        store.load_probabilities(tmp_path / "seed=0.json")
    assert not (tmp_path / "ran").exists()


UNSAFE = {
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "torch.load", "joblib.load", "yaml.load", "yaml.unsafe_load",
    "shutil.unpack_archive", "extractall", "extract", "marshal.loads", "shelve.open",
}  # fmt: skip


@pytest.mark.parametrize("folder", ["pvera", "adapters", "data", "scripts", "benchmarks"])
def test_nothing_is_read_in_a_way_that_can_run_code(folder):
    """No call that unpickles, evaluates, unpacks an archive or uses a shell; numpy files only with allow_pickle=False."""
    found, loads = [], 0
    for path in sorted((ROOT / folder).rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name, options = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
            loads += name == "np.load"
            if name in UNSAFE or name.rpartition(".")[2] in UNSAFE - {"eval"} or options.get("shell", "False") != "False":
                found.append(f"{path}:{call.lineno} {name}")
            if name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
                found.append(f"{path}:{call.lineno} {name} without allow_pickle=False")
    assert found == []
    assert loads or folder not in ("pvera", "data")
