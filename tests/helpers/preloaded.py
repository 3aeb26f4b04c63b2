"""The libraries that a command imports: the server of tests/helpers/command.py imports them once. The project's own code stays out."""

import sys

import pvera  # noqa: F401  (before anything that imports torchvision)

import hydra  # noqa: F401  # isort: skip
import safetensors.torch  # noqa: F401
import sklearn.datasets  # noqa: F401
import timm  # noqa: F401
import torch._dynamo  # noqa: F401  (by the first optimizer)
import torchmetrics.functional.classification  # noqa: F401

for name in [name for name in sys.modules if name.split(".")[0] in ("pvera", "adapters", "data", "configs")]:
    del sys.modules[name]
