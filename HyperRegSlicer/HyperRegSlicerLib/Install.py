"""What registration needs besides Slicer, and how it comes onto the computer: only when the user presses a button.

torch comes through the PyTorch extension, which picks the build that fits the graphics card; the rest with pip; or
everything from a folder of wheels, for a computer without internet.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from hyperreg.errors import HyperRegError, InputError

REQUESTER = "HyperReg"
_log = logging.getLogger(__name__)
TORCH = "torch"


@dataclass(frozen=True)
class Requirement:
    """A package: the module that is imported, and the version as pip wants it (">=", never "==")."""

    module: str
    package: str
    versions: str = ""

    def __str__(self) -> str:
        return f"{self.package}{self.versions}"


# numpy and SimpleITK come with Slicer and must stay the ones it came with.
REQUIREMENTS = (
    Requirement(TORCH, "torch", ">=2.4"),
    Requirement("safetensors", "safetensors", ">=0.4.3"),
    # Older ones would replace Slicer's numpy 2 by numpy 1.
    Requirement("monai", "monai", ">=1.5"),
    Requirement("nibabel", "nibabel", ">=5.2"),
)


class InstallError(HyperRegError):
    """Something could not be installed."""


def missing() -> list[Requirement]:
    """What is not there or too old. Imports none of it: importing torch into Slicer's process has crashed it."""
    importlib.invalidate_caches()
    return [requirement for requirement in REQUIREMENTS if not _is_installed(requirement)]


def _is_installed(requirement: Requirement) -> bool:
    if importlib.util.find_spec(requirement.module) is None:
        return False
    try:
        from packaging.requirements import Requirement as PipRequirement

        version = importlib.metadata.version(requirement.package)
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return True  # there, in a version that nobody can tell
    return PipRequirement(str(requirement)).specifier.contains(version, prereleases=True)


def install_from_internet() -> bool:
    """Installs what is missing, asking first; True if everything is there afterwards, False if the user said no.

    Raises InstallError, in words for the user.
    """
    needed = missing()
    if any(requirement.module == TORCH for requirement in needed):
        _install_torch(next(requirement for requirement in needed if requirement.module == TORCH))
        if any(requirement.module == TORCH for requirement in missing()):
            return False
    others = [requirement for requirement in missing() if requirement.module != TORCH]
    if others:
        _pip_ensure(others)
    return not missing()


def install_from_folder(folder: str) -> bool:
    """Installs what is missing from the wheels (.whl) in a folder, asking first; contacts nobody.

    True if everything is there afterwards, False if the user said no.
    Raises InputError for a folder without wheels, InstallError if a wheel is missing or does not fit.
    """
    needed = missing()
    if not needed:
        return True
    if not folder or not any(Path(folder).glob("*.whl")):
        raise InputError(
            _(
                "There are no wheels (.whl files) in the folder '{folder}'. Choose the folder they were copied to."
            ).format(folder=folder)
        )
    names = ", ".join(requirement.package for requirement in needed)
    question = _("Install {names} from the folder '{folder}'? Nothing is downloaded.").format(
        names=names, folder=folder
    )
    if not slicer.util.confirmOkCancelDisplay(question, REQUESTER):
        return False
    try:
        slicer.util.pip_install(["--no-index", "--find-links", folder, *(str(requirement) for requirement in needed)])
    except Exception as error:
        _log.info("pip: %s", error)
        raise InstallError(
            _(
                "{names} could not be installed from '{folder}'. The folder must hold the wheels of {names} and of all "
                "they depend on, for Python {version} on this system. The Python console shows pip's messages."
            ).format(names=names, folder=folder, version=f"{sys.version_info.major}.{sys.version_info.minor}")
        ) from error
    return not missing()


def offline_command() -> str:
    """What to type on a computer with internet to fill a folder of wheels for this one."""
    names = " ".join(f'"{requirement}"' for requirement in REQUIREMENTS)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"pip download --only-binary=:all: --python-version {version} -d wheels {names}"


def worker_python() -> str:
    """The Python that runs the worker: PythonSlicer, on the PATH or beside the application; else this one."""
    found = shutil.which("PythonSlicer")
    if found:
        return found
    suffix = ".exe" if os.name == "nt" else ""
    beside = Path(slicer.app.slicerHome) / "bin" / f"PythonSlicer{suffix}"
    return str(beside) if beside.is_file() else sys.executable


def _install_torch(requirement: Requirement) -> None:
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError as error:
        raise InstallError(
            _(
                "The extension 'PyTorch' is needed to install PyTorch. Install it in the Extensions Manager, restart "
                "Slicer, and press the button again; or use a folder of wheels."
            )
        ) from error
    try:
        PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=requirement.versions)
    except Exception as error:
        _log.info("PyTorch extension: %s", error)
        raise InstallError(
            _("PyTorch could not be installed ({reason}). Restart Slicer and try again.").format(reason=error)
        ) from error


def _slicer_pip_ensure() -> Callable[..., Any] | None:
    """Slicer's own `pip_ensure`; None before 5.12. Its module is called pydeps in Slicer's newest documentation."""
    for name in ("slicer.packaging", "slicer.pydeps"):
        try:
            return importlib.import_module(name).pip_ensure
        except ImportError:
            continue
    return None


def _pip_ensure(requirements: list[Requirement]) -> None:
    """With the dialog that Slicer has since 5.12, else (5.10) with our own question."""
    try:
        ensure = _slicer_pip_ensure()
        if ensure is not None:
            from packaging.requirements import Requirement as PipRequirement

            ensure([PipRequirement(str(requirement)) for requirement in requirements], requester=REQUESTER)
            return
        names = ", ".join(requirement.package for requirement in requirements)
        question = _("Download and install {names}? This needs the internet and may take a minute.").format(names=names)
        if slicer.util.confirmOkCancelDisplay(question, REQUESTER):
            slicer.util.pip_install([str(requirement) for requirement in requirements])
    except Exception as error:
        if isinstance(error, RuntimeError) and "cancel" in str(error).lower():
            return  # how `pip_ensure` says that the user said no
        raise InstallError(
            _("The download or installation failed ({reason}). Check the internet connection and try again.").format(
                reason=error
            )
        ) from error
