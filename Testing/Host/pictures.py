"""Makes the pictures of the documentation smaller: `python -m Testing.Host.pictures`, after they were made anew.

The history keeps every version of a picture for ever; 128 colours are enough for grey images and a user interface.
"""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "Resources" / "Screenshots"
COLOURS = 128


def shrink(path: Path) -> None:
    """Rewrites a PNG of more colours with COLOURS, if that is smaller; leaves others as they are."""
    with Image.open(path) as opened:
        if opened.mode == "P":
            return
        picture = opened.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    temporary = path.with_suffix(".tmp")
    picture.save(temporary, "PNG", optimize=True)
    if temporary.stat().st_size < path.stat().st_size:
        os.replace(temporary, path)
    else:
        temporary.unlink()


if __name__ == "__main__":
    for picture in sorted(FOLDER.glob("*.png")):
        shrink(picture)
