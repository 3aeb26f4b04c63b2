"""Rules of resizing, and normalisations: the way from a decoded image to the backbone's input. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation of the channels (red, green, blue) of images in [0, 1]."""

MAX_RESIZED = 1 << 26  # pixels of an image on its way to a crop


def pil_bilinear(image: Image.Image, size: int) -> np.ndarray:
    """Bilinear and antialiased, to exactly size x size, the aspect ratio not kept: torchvision's Resize of PIL images, as released."""
    import numpy as np
    from PIL import Image

    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def pil_bicubic(image: Image.Image, size: int) -> np.ndarray:
    """Bicubic and antialiased, to exactly size x size, the aspect ratio not kept: torchvision's Resize with interpolation=3, as in NOAH."""
    import numpy as np
    from PIL import Image

    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def tf_bilinear(image: Image.Image, size: int) -> np.ndarray:
    """Bilinear without antialiasing, to exactly size x size, the aspect ratio not kept: `tf.image.resize`, as in the official VTAB.

    TensorFlow keeps fractions of a grey level; here they are rounded to uint8.
    """
    import numpy as np

    pixels = np.asarray(image, dtype=np.float32)
    for axis in (0, 1):
        length = pixels.shape[axis]
        # Centres of the new pixels in the old grid; beyond the outermost centres the edge is repeated.
        centres = ((np.arange(size) + 0.5) * (length / size) - 0.5).clip(0, length - 1)
        left = centres.astype(np.int64)
        share = (centres - left).astype(np.float32).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        right = np.minimum(left + 1, length - 1)
        pixels = pixels.take(left, axis) * (1 - share) + pixels.take(right, axis) * share
    return pixels.round().astype(np.uint8)


def short_side_crop(image: Image.Image, size: int) -> np.ndarray:
    """Bilinear and antialiased, the short side to size, then the centred square: torchvision's Resize(size) and CenterCrop(size).

    Raises DataError for an image so elongated that it would have more than MAX_RESIZED pixels before it is cropped.
    """
    import numpy as np
    from PIL import Image

    width, height = (int(size * length / min(image.size)) for length in image.size)
    if width * height > MAX_RESIZED:
        name = image.info.get("name", "an image")
        raise DataError(
            f"{name} has {image.width} x {image.height} pixels: too elongated for short_side_crop, which would make it {width} x {height}"
        )
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + size, top + size)))


RULES = {"pil_bilinear": pil_bilinear, "pil_bicubic": pil_bicubic, "tf_bilinear": tf_bilinear, "short_side_crop": short_side_crop}
"""Each takes an RGB image and the size S and returns (S, S, 3) uint8."""
