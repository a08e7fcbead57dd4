"""Stand-ins for the part of Slicer's LayerDM extension that trame-slicer asks for.

trame-slicer imports that extension for its segment editor, which HyperReg does not show. On PyPI it exists for one
version of slicer-core only, so where it is missing, these take its place before trame-slicer is imported. Observing
objects is the one thing of it that the slice views need; that one works in full.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import slicer
import vtk

# What makes a displayable manager of Slicer's own libraries different from the stand-in below.
MISSING_MARK = "hyperreg_stand_in"


class EventObserver:
    """Calls one Python function for the events of the objects it was given."""

    def __init__(self) -> None:
        self._callback: Callable[[Any, int, Any], None] | None = None
        self._tags: dict[Any, list[int]] = {}

    def SetPythonCallback(self, callback: Callable[[Any, int, Any], None]) -> None:  # noqa: N802 (Slicer's name)
        self._callback = callback

    def UpdateObservation(self, before: Any, after: Any, events: Any = vtk.vtkCommand.ModifiedEvent) -> bool:  # noqa: N802
        """Stops listening to `before`, listens to `after` (each may be None)."""
        for tag in self._tags.pop(before, ()) if before is not None else ():
            before.RemoveObserver(tag)
        if after is None:
            return before is not None
        for event in events if isinstance(events, (list, tuple)) else (events,):
            tag = after.AddObserver(event, self._forwarder(event))
            self._tags.setdefault(after, []).append(tag)
        return True

    def _forwarder(self, event: int) -> Callable[[Any, str], None]:
        def forward(sender: Any, _name: str) -> None:
            if self._callback is not None:
                self._callback(sender, event, None)

        return forward


class _Placeholder:
    """Accepts what trame-slicer does with the segment editor's classes while it starts."""

    hyperreg_stand_in = True

    def SetPythonCallback(self, _callback: Any) -> None:  # noqa: N802
        """Nothing will be created, so nobody has to be called."""

    def AddPipelineCreator(self, _creator: Any) -> None:  # noqa: N802
        """There is no factory behind this."""

    @classmethod
    def GetInstance(cls) -> _Placeholder:  # noqa: N802
        return cls()


def provide() -> None:
    """Makes trame-slicer importable with this slicer-core. Does nothing where the extension is there."""
    if hasattr(slicer, "vtkMRMLLayerDMObjectEventObserverScripted"):
        return
    slicer.vtkMRMLLayerDMObjectEventObserverScripted = EventObserver
    for name in (
        "vtkMRMLLayerDisplayableManager",
        "vtkMRMLLayerDMPipelineFactory",
        "vtkMRMLLayerDMPipelineScriptedCreator",
    ):
        setattr(slicer, name, type(name, (_Placeholder,), {}))
    library = ModuleType("LayerDMLib")
    library.vtkMRMLLayerDMScriptedPipeline = type("vtkMRMLLayerDMScriptedPipeline", (_Placeholder,), {})  # type: ignore[attr-defined]
    sys.modules["LayerDMLib"] = library
