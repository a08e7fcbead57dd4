"""slicer.packaging (Slicer 5.12), pip in slicer.util, slicer.i18n. Nothing is ever installed: requests are recorded."""

from __future__ import annotations

import importlib.metadata
import types
from pathlib import Path
from typing import Any

import slicer
from packaging.requirements import Requirement

from .record import RECORDS


def _as_list(requirements: Any) -> list[Requirement]:
    if isinstance(requirements, (str, Requirement)):
        requirements = [requirements]
    return [r if isinstance(r, Requirement) else Requirement(r) for r in requirements]


def load_requirements(path: str | Path) -> list[Requirement]:
    """Read a requirements file."""
    lines = [line.split("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line]


def pip_check(req: Any) -> bool:
    """Return whether all requirements are installed in a fitting version."""
    for requirement in _as_list(req):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return False
        if not requirement.specifier.contains(version, prereleases=True):
            return False
    return True


def pip_install(
    requirements: Any,
    constraints: Any = None,
    no_deps_requirements: Any = None,
    skip_packages: Any = None,
    blocking: bool = True,
    show_progress: bool = True,
    requester: str | None = None,
    logCallback: Any = None,
    completedCallback: Any = None,
) -> None:
    """Record the request. A queued answer False makes it fail as pip does, with CalledProcessError."""
    RECORDS.pip.append(("install", requirements))
    if RECORDS.next_answer(True) is False:
        from subprocess import CalledProcessError

        if completedCallback is None:
            raise CalledProcessError(1, ["PythonSlicer", "-m", "pip", "install"])
        completedCallback(1)
    elif completedCallback is not None:
        completedCallback(0)


def pip_uninstall(
    requirements: Any, blocking: bool = True, logCallback: Any = None, completedCallback: Any = None
) -> None:
    """Record the request."""
    RECORDS.pip.append(("uninstall", requirements))
    if completedCallback is not None:
        completedCallback(0)


def pip_ensure(
    requirements: Any,
    constraints: Any = None,
    skip_packages: Any = None,
    prompt_install: bool = True,
    prompt_restart: bool = True,
    requester: str | None = None,
    skip_in_testing: bool = True,
    show_progress: bool = True,
) -> None:
    """Ask, then "install" what is missing; in testing mode do nothing, as Slicer does."""
    missing = [r for r in _as_list(requirements) if not pip_check(r)]
    if not missing or (skip_in_testing and slicer.app.testingEnabled()):
        return
    if prompt_install and not slicer.util.confirmOkCancelDisplay("Install " + ", ".join(map(str, missing)) + "?"):
        raise RuntimeError("Installation of required packages was cancelled by the user")
    pip_install([str(r) for r in missing], constraints=constraints, requester=requester)


def make_packaging() -> types.ModuleType:
    """Return the module ``slicer.packaging``."""
    module = types.ModuleType("slicer.packaging")
    for item in (load_requirements, pip_check, pip_install, pip_uninstall, pip_ensure, Requirement):
        setattr(module, item.__name__, item)
    return module


def make_i18n() -> types.ModuleType:
    """Return the module ``slicer.i18n``: the application runs in English."""
    module = types.ModuleType("slicer.i18n")

    def tr(text: str) -> str:
        """Translate a text."""
        if not isinstance(text, str):
            raise TypeError(f"tr() takes a text, not {type(text).__name__}")
        return text

    def translate(context: str, text: str) -> str:
        """Translate a text of a context."""
        return tr(text)

    module.__dict__.update(tr=tr, translate=translate)
    return module
