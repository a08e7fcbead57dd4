"""What the solver takes two images for: of one contrast, or of different ones. No torch: for Slicer."""

from __future__ import annotations

from hyperreg.errors import InputError

AUTOMATIC, SAME, DIFFERENT = "auto", "same", "different"
CONTRASTS = (AUTOMATIC, SAME, DIFFERENT)


def check_contrast(contrast: str) -> str:
    """The value itself. Raises InputError if it is none of CONTRASTS."""
    if contrast not in CONTRASTS:
        raise InputError(f"The contrast is one of {', '.join(CONTRASTS)}, not '{contrast}'.")
    return contrast


def contrast_text(contrast: str, alike: bool) -> str:
    """What the user reads of it; "" for what needs no saying. alike: what it was done as."""
    if contrast == SAME:
        return "As chosen, the images counted as of one contrast."
    if contrast == DIFFERENT:
        return "As chosen, the images counted as of different contrasts: the field is kept smoother."
    return "" if alike else "The images differ in contrast: the field is kept smoother."
