"""What a trained network takes a picture file for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv import functional as F
from fastconv.extras import require
from fastconv.runs import Run
from fastconv.training import predict

Array = NDArray[Any]

# Pixels of the data's own pictures that stay empty on every side of what is drawn.
MARGINS = {"digits": 0, "mnist": 4, "fashion-mnist": 0}


class PictureError(ValueError):
    """A file cannot be read as a picture; the message starts with its path."""


def classify(run: Run, path: str | os.PathLike[str]) -> list[tuple[str, float]]:
    """Return every class with its probability, the likeliest first.

    Raises
    ------
    PictureError
        If the file cannot be read as a picture.
    RunError
        If the run has no whole checkpoint.
    MissingExtraError
        If Pillow is not installed.
    """
    picture = read_picture(path, run)
    logits = predict(run.network(), picture, run.preparation)
    probabilities = F.softmax(logits.astype(np.float64), axis=1)[0]
    likeliest = np.argsort(-probabilities, kind="stable")
    return [(run.classes[index], float(probabilities[index])) for index in likeliest]


def read_picture(path: str | os.PathLike[str], run: Run) -> Array:
    """Read a picture file as the data of a run has its pictures: uint8 (1, C, S, S).

    Grey data are light on black: a picture whose border is light is inverted. One of exactly S x S pixels is then taken
    as it is; of any other size, what is drawn is cut out, scaled and centred in the margin that the data leave. Colour
    pictures are cut to a square and scaled. Transparent pixels are white.

    Raises
    ------
    PictureError
        If the file cannot be read as a picture.
    MissingExtraError
        If Pillow is not installed.
    """
    image = open_picture(Path(path))
    if run.channels != 1:
        return cut_picture(image, run.channels, (run.size, run.size))
    image = _on_black(image)
    if image.size != (run.size, run.size):
        image = _framed(image, run.size, MARGINS.get(run.data, 0))
    return np.ascontiguousarray(np.asarray(image)[None, None])


def cut_picture(image: Any, channels: int, size: tuple[int, int]) -> Array:
    """A picture's middle, as large as it goes, scaled to (width, height): uint8 (1, C, H, W), C being 1 or 3."""
    pixels = np.asarray(_ops().fit(image.convert("L" if channels == 1 else "RGB"), size))
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)[None])


def _ops() -> Any:
    return require("PIL.ImageOps", extra="train")


def open_picture(path: Path) -> Any:
    """Return the picture in mode L or RGB.

    Raises
    ------
    PictureError
        If the file cannot be read as a picture.
    MissingExtraError
        If Pillow is not installed.
    """
    pillow = require("PIL.Image", extra="train")
    try:
        with pillow.open(path) as file:
            file.load()
            image = file.copy()
    except FileNotFoundError:
        raise PictureError(f"{path}: no such file") from None
    except pillow.UnidentifiedImageError:
        raise PictureError(f"{path}: not a picture in a known format") from None
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise PictureError(f"{path}: cannot be read as a picture ({error})") from error
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip and not scale
        return pillow.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = pillow.new("RGBA", image.size, "white")
        image = pillow.alpha_composite(white, image)
    return image.convert("L" if image.mode in ("1", "L", "F") else "RGB")


def _on_black(image: Any) -> Any:
    image = image.convert("L")
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return _ops().invert(image) if np.median(border) > 127 else image


def _framed(image: Any, size: int, margin: int) -> Any:
    """Cut out what is drawn, and centre it, as large as it goes, in size x size pixels with an empty margin."""
    pillow = require("PIL.Image", extra="train")
    pixels = np.asarray(image).astype(np.int64)
    drawn = pixels - np.median(pixels) > 0.2 * np.ptp(pixels)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    if rows.size:
        image = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    inner = size - 2 * margin
    scale = inner / max(image.size)
    width, height = (max(1, round(scale * length)) for length in image.size)
    frame = pillow.new("L", (size, size))
    frame.paste(image.resize((width, height), pillow.Resampling.BILINEAR), ((size - width) // 2, (size - height) // 2))
    return frame
