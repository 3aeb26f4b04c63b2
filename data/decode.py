"""Decodes the bytes of an image file to 8-bit RGB, the same way for every source.

Formats: JPEG, PNG, BMP, GIF and WebP (first frame), TIFF, PPM and PGM, up to MAX_PIXELS. Grey is copied to three channels, palettes are
looked up, 16-bit grey is scaled by 255 / 65535, CMYK is converted, alpha is dropped. Beyond the 16 bits this is PIL's `convert("RGB")`, as
in the released code. The caller chooses whether an EXIF rotation is applied. Everything else is refused, and so are truncated images.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from data.errors import DataError

MAX_PIXELS = 1 << 26  # 8192 x 8192
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

# PIL's own, laxer limit would only add a warning to the refusal below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(data: bytes, name: str, *, upright: bool) -> Image.Image:
    """The image in mode RGB; `upright` turns it as its EXIF orientation says. Its `info["name"]` is the name, for later messages.

    Raises DataError, with the name, for an image that cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{name} has {image.width} x {image.height} pixels, at most {MAX_PIXELS} are read: shrink it")
            deep = image.format == "PPM" and image.mode == "I"  # a PGM with more than 8 bits: PIL scales it to 16
            image.load()
            rgb = _rgb(ImageOps.exif_transpose(image) if upright else image, name, deep=deep)
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} has more than the {MAX_PIXELS} pixels that are read: shrink it") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image of a known format ({', '.join(_FORMATS)})") from error
    except DataError:
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise DataError(f"{name} is truncated or broken: {' '.join(str(error).split())}") from error
    rgb.info["name"] = name
    return rgb


def _rgb(image: Image.Image, name: str, *, deep: bool) -> Image.Image:
    if deep or image.mode.startswith("I;16"):  # convert() would clip at 255
        levels = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataError(f"{name} has 32-bit pixels, whose range is not defined: save it with 8 or 16 bits")
    return image.convert("RGB")
