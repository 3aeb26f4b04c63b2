"""What several tests share."""

import pvera  # noqa: F401  (before anything that imports torchvision)
