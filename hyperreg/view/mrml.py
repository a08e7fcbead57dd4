"""Finds what the app shares with the Slicer modules: their logic on MRML, which needs no Qt."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import hyperreg
from hyperreg.errors import HyperRegError

REGISTRATION, SEGMENTATION = "HyperRegSlicerLib", "SegmentationModuleLib"
MISSING = (
    "The browser app needs slicer-core and trame-slicer. Install them with: pip install 'hyperreg[view]'\n"
    "(slicer-core exists for Linux, Windows and macOS with Python 3.10 to 3.13.)"
)


def slicer_module(name: str, library: str = REGISTRATION) -> ModuleType:
    """A module of a Slicer module's library: "Geometry", "Logic" or "Views".

    library: REGISTRATION or SEGMENTATION, which imports the other one.
    Raises HyperRegError if it or slicer-core is not installed.
    """
    package = Path(hyperreg.__file__).resolve().parent
    for known in (REGISTRATION, SEGMENTATION):
        for place in (package.parent / known.removesuffix("Lib"), package / "slicer_module"):  # source tree, wheel
            if (place / known).is_dir() and str(place) not in sys.path:
                sys.path.append(str(place))
    _provide_translation()
    try:
        return importlib.import_module(f"{library}.{name}")
    except ImportError as error:
        raise HyperRegError(f"{MISSING}\n({error})") from error


def _provide_translation() -> None:
    """The modules' words go through Slicer's translation, which slicer-core does not have: here they stay English."""
    try:
        importlib.import_module("slicer.i18n")
    except ImportError:
        stand_in = ModuleType("slicer.i18n")
        stand_in.tr = lambda text: text  # type: ignore[attr-defined]
        sys.modules["slicer.i18n"] = stand_in
