"""pvera: a benchmark harness for parameter-efficient fine-tuning of vision transformers on VTAB-1k.

Importing this package imports neither torch nor timm, so that `python -m pvera --help` answers at once.
"""

from pvera import torchvision_ops

torchvision_ops.install()
