"""One image file as pixels: every kind of picture that Pillow opens becomes 8-bit RGB without losing its content."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from harness.plan.errors import UserError

WHITE_IS_ZERO = 0  # TIFF's PhotometricInterpretation
PHOTOMETRIC = 262  # its tag


def decode(path: Path, size: int) -> tuple[np.ndarray, bool]:
    """uint8 [3, size, size], and whether the file has further frames, which are not read.

    The picture is turned as its EXIF tag says, transparent parts are laid over white, and the largest centred square is
    resized (bilinear, antialiased). UserError, with the path, for a file that cannot be decoded without a guess.
    """
    try:
        with Image.open(path) as image:
            has_more_frames = getattr(image, "n_frames", 1) > 1
            upright = ImageOps.exif_transpose(_in_8_bits(image))
            square = ImageOps.fit(_without_alpha(upright), (size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise UserError(f"{path} ({_reason(error)})") from error
    return np.asarray(square).transpose(2, 0, 1), has_more_frames


def _in_8_bits(image: Image.Image) -> Image.Image:
    """16-bit greyscale scaled to 8 bits; Pillow itself would clip it to white."""
    if image.mode != "I" and not image.mode.startswith(("I;", "F")):
        return image
    image.load()  # before its tags are read: Pillow turns TIFFs itself
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise ValueError("greyscale with white as zero: save it with black as zero")
    if image.mode == "F" or image.mode.startswith("F;"):
        raise ValueError("floating-point pixels, of which black and white are unknown: save it with 8 or 16 bits")
    exif = image.getexif()
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise ValueError("32-bit pixels, of which black and white are unknown: save it with 8 or 16 bits")
    scaled = Image.fromarray(np.round(values / 257).astype(np.uint8))  # 65535 is white
    scaled.info["exif"] = exif.tobytes()
    return scaled


def _without_alpha(image: Image.Image) -> Image.Image:
    """RGB over a white ground. Colours that the alpha channel hides are no content, but the shape it draws is."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    alpha = np.asarray(layered)[..., 3]
    if alpha.min() == 255:
        return layered.convert("RGB")
    over_white = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    if alpha.max() == 0:
        raise ValueError("fully transparent")
    if alpha.min() < alpha.max() and np.asarray(over_white).min() == 255:
        raise ValueError("white on a transparent ground: draw it on another colour")
    return over_white


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if lines and lines[0].startswith("cannot identify image file"):
        return "not an image"
    return lines[0] if lines else type(error).__name__
