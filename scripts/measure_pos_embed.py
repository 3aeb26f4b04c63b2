"""How far the features of DINOv2 move with the way in which its position embedding is resampled.

    python scripts/measure_pos_embed.py [IMAGE_SIZE]

The authors' code resamples it bicubically with scale factors of (grid + 0.1) / 37 and without antialiasing. Here it is resampled to the
grid's size, with antialiasing by default. Prints the largest differences of a feature on 16 of the digits, at 224 px by default.
"""

import sys

import torch
from torch.nn import functional

from data.sources.offline import Offline
from data.tasks import find
from pvera.models.data import as_tensor
from pvera.overrides import compose_run

OFFSET = 0.1
"""Of the authors' code, against rounding of the grid's size."""


def main() -> None:
    size = int(sys.argv[1]) if sys.argv[1:] else 224
    run = compose_run(["task=extra/digits", "adapter=linear_probe", f"image_size={size}"])
    images = as_tensor(Offline().load(find("digits"), "test", size).images[:16])
    mean, sd = map(torch.tensor, run.normalisation())
    inputs = ((images / 255 - mean) / sd).permute(0, 3, 1, 2)

    def features(antialias: bool, offset: bool = False) -> torch.Tensor:
        run.backbone.pos_embed_antialias = antialias
        model = run.backbone.create(size)
        if offset:
            run.backbone.pos_embed_antialias = True
            whole = run.backbone.create(518).get_parameter("pos_embed")[:, 1:]  # as it is in the weights
            grid = size // 14
            resampled = functional.interpolate(
                whole.transpose(1, 2).unflatten(2, (37, 37)), scale_factor=(grid + OFFSET) / 37, mode="bicubic"
            )
            assert resampled.shape[-2:] == (grid, grid)
            model.get_parameter("pos_embed")[:, 1:] = resampled.flatten(2).transpose(1, 2)
        with torch.no_grad():
            return model(inputs)

    authors = features(antialias=False, offset=True)
    print(f"largest feature of the authors' resampling: {authors.abs().max():.3f}")
    for name, antialias in (("antialiased", True), ("not antialiased", False)):
        print(f"{name}: differs by at most {(features(antialias) - authors).abs().max():.3f}")


if __name__ == "__main__":
    main()
