"""What is installed, what the machine offers, and whether the models are intact: as plain text that can be copied."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

import hyperreg
from hyperreg.catalogue import Card, card_folders, kind_of, model_folders
from hyperreg.errors import WeightsError
from hyperreg.machine import main_memory
from hyperreg.registration import catalogue as registration
from hyperreg.registration.catalogue import default_model
from hyperreg.segmentation import catalogue as segmentation
from hyperreg.worker.device import list_devices

GIGABYTE = 1024**3
# Below this much free memory, a registration at full resolution may fail or make the machine swap.
ENOUGH_MEMORY_GB = 4.0
ENOUGH_DISK_GB = 1.0
OLDEST_PYTHON = (3, 10)

ESSENTIAL = ("numpy", "SimpleITK", "nibabel", "torch", "monai", "safetensors", "typer", "rich")
# Distribution -> what does not work without it.
OPTIONAL = {
    "matplotlib": "plots of `hyperreg sweep`",
    "pydantic": "`hyperreg train`",
    "PyYAML": "`hyperreg train`",
    "pydicom": "DICOM images",
    "highdicom": "DICOM segmentations",
    "ray": "cohorts on several machines",
    "psutil": "memory figures outside Linux",
    "trame": "`hyperreg view`",
    "trame-slicer": "`hyperreg view`",
    "trame-vuetify": "`hyperreg view`",
    "slicer-core": "`hyperreg view`",
}


class State(Enum):
    """How a check ended; the value is what the report prints."""

    OK = "ok"
    NOTE = "note"
    FAULT = "FAULT"


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    subject: str
    state: State
    text: str

    def __str__(self) -> str:
        return f"[{self.state.value:^5}] {self.subject}: {self.text}"


@dataclass(frozen=True)
class Diagnosis:
    """The checks, in the order in which they are printed."""

    checks: tuple[Check, ...]

    @property
    def faults(self) -> tuple[Check, ...]:
        """What keeps HyperReg from working."""
        return tuple(check for check in self.checks if check.state is State.FAULT)

    def __str__(self) -> str:
        lines = [f"HyperReg {hyperreg.__version__}", *(str(check) for check in self.checks)]
        lines.append(f"{len(self.faults)} fault(s)." if self.faults else "Everything that is needed works.")
        return "\n".join(lines)


def diagnose() -> Diagnosis:
    """Look at everything; never raises, a check that fails becomes a fault of its own."""
    parts: tuple[tuple[str, Callable[[], list[Check]]], ...] = (
        ("system", _system),
        ("packages", _packages),
        ("DICOM compressions", _compressions),
        ("memory", _memory),
        ("GPU", _gpu),
        ("disk", _disk),
        ("models", _models),
    )
    checks: list[Check] = []
    for subject, look in parts:
        try:
            checks.extend(look())
        except Exception as error:  # noqa: BLE001 (a report about a broken installation must not break itself)
            checks.append(Check(subject, State.FAULT, f"{type(error).__name__}: {error}"))
    return Diagnosis(tuple(checks))


def _system() -> list[Check]:
    state = State.OK if sys.version_info >= OLDEST_PYTHON else State.FAULT
    python = f"{platform.python_version()} ({sys.executable})"
    return [
        Check("system", State.OK, f"{platform.platform()}, {os.cpu_count()} processors"),
        Check("Python", state, python if state is State.OK else f"{python}; 3.10 or newer is needed"),
    ]


def _packages() -> list[Check]:
    checks = []
    for name in ESSENTIAL:
        try:
            importlib.import_module(name)
            checks.append(Check(name, State.OK, metadata.version(name)))
        except metadata.PackageNotFoundError:
            checks.append(Check(name, State.OK, "there, of unknown version"))
        except Exception as error:  # noqa: BLE001 (a broken binary package raises anything)
            reason = "missing" if isinstance(error, ModuleNotFoundError) and error.name == name else str(error)
            checks.append(Check(name, State.FAULT, f"{reason}; install it with: pip install {name}"))
    for name, purpose in OPTIONAL.items():
        try:
            checks.append(Check(name, State.OK, metadata.version(name)))
        except metadata.PackageNotFoundError:
            checks.append(Check(name, State.NOTE, f"missing; only needed for {purpose}"))
    return checks


def _compressions() -> list[Check]:
    from hyperreg.imaging.dicom.pixels import unreadable_compressions

    try:
        missing = unreadable_compressions()
    except ImportError:
        return []  # without pydicom, no DICOM at all
    checks = []
    for remedy in sorted(set(missing.values())):
        names = ", ".join(name for name, own in missing.items() if own == remedy)
        checks.append(Check("DICOM compressions", State.NOTE, f"not read here: {names}; read with: {remedy}"))
    return checks or [Check("DICOM compressions", State.OK, "all are read that pydicom knows")]


def _memory() -> list[Check]:
    free, total = main_memory()
    if free is None or total is None:
        return [Check("memory", State.NOTE, "unknown")]
    text = f"{free / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GB free"
    if free < ENOUGH_MEMORY_GB * GIGABYTE:
        return [Check("memory", State.NOTE, f"{text}; registration needs up to {ENOUGH_MEMORY_GB:g} GB")]
    return [Check("memory", State.OK, text)]


def _gpu() -> list[Check]:
    import torch

    checks = [
        Check("GPU", State.OK, f"{d['title']}, {_gigabytes(d)} free, CUDA {torch.version.cuda}")
        for d in list_devices()
        if d["name"] != "cpu"
    ]
    if checks:
        return checks
    build = torch.version.cuda
    reason = (
        f"none that torch can use (it is built for CUDA {build})" if build else "torch is a build without GPU support"
    )
    return [Check("GPU", State.NOTE, f"{reason}; the CPU is used")]


def _gigabytes(device: dict[str, Any]) -> str:
    return f"{device['free_bytes'] / GIGABYTE:.1f} of {device['total_bytes'] / GIGABYTE:.1f} GB"


def _disk() -> list[Check]:
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"HyperReg")
    free = shutil.disk_usage(folder).free / GIGABYTE
    state = State.OK if free >= ENOUGH_DISK_GB else State.NOTE
    return [Check("disk", state, f"{free:.1f} GB free for temporary files in {folder}")]


def _models() -> list[Check]:
    default = default_model()
    cards: list[Card] = [*registration.list_networks(), *segmentation.list_models()]
    checks = [_model(card, is_default=card.name == default) for card in cards]
    for folder in card_folders():
        # A card of unknown kind is taken for one for registration: that reader says what is wrong with it.
        read: Callable[[Path], Card] = (
            segmentation.read_card if kind_of(folder) == segmentation.KIND else registration.read_card
        )
        try:
            read(folder)
        except WeightsError as error:
            checks.append(Check(f"model {folder.name}", State.FAULT, str(error)))
    if not checks:
        places = ", ".join(str(place) for place in model_folders())
        checks.append(
            Check(
                "models", State.NOTE, f"none found (looked in {places}): registration works without, segmentation not"
            )
        )
    return checks


def _model(card: Card, is_default: bool) -> Check:
    subject = f"model {card.name}{' (default)' if is_default else ''}"
    try:
        card.check_weights()
    except WeightsError as error:
        return Check(subject, State.FAULT, str(error))
    return Check(subject, State.OK, f"version {card.version}, weights intact (SHA256 {card.sha256}), {card.folder}")
