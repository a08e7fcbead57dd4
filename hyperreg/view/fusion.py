"""What happens when the user fuses atlases: between the page's state, the worker and the scene."""

from __future__ import annotations

import asyncio
import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from hyperreg.errors import HyperRegError, InputError
from hyperreg.view import mrml
from hyperreg.view.fusion_files import write
from hyperreg.view.private_files import PrivateFiles, safe_name
from hyperreg.view.state import IDLE, OPACITY, FusionState
from hyperreg.worker.fusion import FoundAtlas, Fused, Rater

DEVICES = ("auto", "cpu", "cuda")
MAP_COLOURS = "vtkMRMLColorTableNodeIron"
# Name: title, and what it does, for the user.
METHODS = {
    "vote": ("Majority vote", "The label that most atlases give. Seconds."),
    "staple": ("STAPLE", "Weighs each atlas by its estimated sensitivity and specificity. Seconds."),
    "local": ("Local vote", "Weighs each atlas, place by place, by how similar its image is there. A minute."),
    "dp": ("Data parameters", "A small network learns how good each atlas' labels are. Minutes."),
}
# A row of the table of atlases can be sorted by these; larger is better.
SORTED_BY = ("name", "weight", "similarity", "dice", "sensitivity", "specificity")


class FusionControls:
    """The fusion panel without its page.

    state: the shared state, with `FusionState`. scene: the vtkMRMLScene. views: the slice views.
    fuser: a `RemoteFuser` or a stand-in; whoever owns its client polls it. files: downloads.
    images(): the volume nodes that other panels have loaded, by what they are called.
    """

    def __init__(
        self,
        state: Any,
        scene: slicer.vtkMRMLScene,
        views: Any,
        fuser: Any,
        files: PrivateFiles,
        images: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._state, self._scene, self._views, self._files, self._images = state, scene, views, files, images
        self._fuser = fuser
        self._results, self._doubt, self._texts = (
            mrml.slicer_module(name, mrml.SEGMENTATION) for name in ("Results", "Doubt", "Texts")
        )
        self.logic = mrml.slicer_module("AtlasesLogic", mrml.SEGMENTATION).AtlasesLogic(scene, fuser)
        self.logic.on_change = self._changed
        self.logic.on_progress = self._progressed
        self.logic.on_result = self._add_result
        self.logic.on_finished = self._finished
        self.logic.on_error = self._tell
        # Of the consensus that is shown: its node, what came with it, the way along its disagreements.
        self._node: Any = None
        self._fused: Fused | None = None
        self._tour: Any = None
        state.update(asdict(FusionState()))
        state.fuse_methods = [{"title": title, "value": name} for name, (title, _hint) in METHODS.items()]
        self.choose_method()

    # The user's actions

    def enter(self) -> None:
        """The panel is shown: the views show its target and the consensus over it."""
        if self._node is not None and self._results.reference_of(self._node) is None:
            self._forget()  # its image was closed in another panel
        self.offer_targets()
        self.show()

    def leave(self) -> None:
        """Another panel is shown."""
        self._display(visible=False)

    def offer_targets(self) -> None:
        """Refreshes what can be chosen as target; takes the first one if none is chosen."""
        state = self._state
        state.fuse_targets = [
            {"title": f"{title}: {node.GetName()}", "value": node.GetID()} for title, node in self._images().items()
        ]
        known = [entry["value"] for entry in state.fuse_targets]
        if state.fuse_target not in known:
            state.fuse_target = known[0] if known else ""
        self._say_what_is_missing()

    def choose_method(self) -> None:
        name = self._state.fuse_method
        self._state.fuse_method_hint = METHODS[name][1] if isinstance(name, str) and name in METHODS else ""

    def look(self) -> None:
        """Looks through the folder of atlases: which can be used, which not and why."""
        state = self._state
        folder = state.fuse_folder.strip() if isinstance(state.fuse_folder, str) else ""
        state.error, state.fuse_atlases, state.fuse_found = "", [], ""
        self._say_what_is_missing()
        if not folder or state.fuse_looking:
            return
        state.fuse_looking = True
        try:
            self._fuser.find_atlases(folder, self._found, self._not_found)
        except HyperRegError as error:
            self._not_found(str(error))

    def fuse(self) -> None:
        """Starts fusing; everything is checked here, because the browser may have sent anything."""
        state = self._state
        state.error, state.notes = "", []
        try:
            target = self._target()
            if target is None:
                raise InputError("Choose the image to segment.")
            if state.fuse_method not in list(METHODS):
                raise InputError("Choose a method from the list.")
            lam, select = state.fuse_lam, state.fuse_select
            if not isinstance(lam, (int, float)) or not 0 <= lam <= 1:
                raise InputError("λ must lie between 0 and 1.")
            if isinstance(select, bool) or not isinstance(select, int) or select < 0:
                raise InputError("The number of atlases to keep is 0 (all) or larger.")
            if state.device not in list(DEVICES):
                raise InputError("Choose a device from the list.")
            self.logic.fuse_atlases(
                [target],
                state.fuse_folder if isinstance(state.fuse_folder, str) else "",
                method=state.fuse_method,
                lam=float(lam),
                refine=state.fuse_refine is True,
                device=state.device,
                select=select,
            )
        except HyperRegError as error:
            self._tell(str(error))

    def cancel(self) -> None:
        self.logic.cancel()

    def undo(self) -> None:
        """Takes the consensus, its disagreement map and its tables out of the scene."""
        self.logic.undo()
        self._forget()
        self.show()

    def next_place(self) -> None:
        """Moves the views to the next region in which the atlases disagree, the largest first."""
        if self._tour is None or not self._tour.is_possible:
            return
        region = self._tour.next(self._scene)
        inside = "" if region is None else self._tour.structure()
        self._state.fuse_place = self._texts.disagreement(self._tour.number, self._tour.regions, inside)

    def sort(self, column: Any) -> None:
        """Sorts the table of atlases by a column; a second time the other way round."""
        if column not in SORTED_BY or self._fused is None:
            return
        downwards = column != "name"
        reverse = downwards if self._state.fuse_sort != column else not downwards
        self._state.fuse_sort = column if reverse == downwards else f"{column} back"
        self._state.fuse_raters = [_row(rater) for rater in _sorted(self._fused.raters, column, reverse)]

    def set_opacity(self, opacity: Any) -> None:
        if isinstance(opacity, (int, float)) and math.isfinite(opacity) and 0 <= opacity <= 1:
            self._display()

    async def save(self) -> None:
        """Writes the consensus that is shown for download."""
        state, fused, node = self._state, self._fused, self._node
        if state.fuse_saving or fused is None or node is None:
            return
        with state:
            state.fuse_saving = True
        try:
            stem, folder = safe_name(node.GetName().replace(".nii.gz", "")), self._files.new_folder()
            written = await asyncio.get_running_loop().run_in_executor(None, write, fused, folder, stem)
            with state:
                state.fuse_downloads = self._files.offer(written, "fusion")
                state.fuse_downloads_title = node.GetName()
        except HyperRegError as error:
            with state:
                self._tell(str(error))
        finally:
            with state:
                state.fuse_saving = False

    def close(self) -> None:
        self.logic.close()

    # What the worker says

    def _found(self, atlases: Sequence[FoundAtlas]) -> None:
        state = self._state
        state.fuse_looking = False
        state.fuse_atlases = [
            {"name": atlas.name, "image": atlas.image, "labels": atlas.labels, "problem": atlas.problem}
            | {"picture": "" if atlas.thumbnail is None else picture_address(atlas.thumbnail)}
            for atlas in atlases
        ]
        usable = sum(1 for atlas in atlases if not atlas.problem)
        left_out = len(atlases) - usable
        state.fuse_found = f"{usable} atlases" + (f", {left_out} cannot be used" if left_out else "")
        self._say_what_is_missing()

    def _not_found(self, message: str) -> None:
        self._state.fuse_looking = False
        self._tell(message)

    def _progressed(self, fraction: float, text: str) -> None:
        self._state.fuse_progress, self._state.fuse_text = 100 * fraction, text

    def _changed(self) -> None:
        state = self._state
        state.fuse_phase, state.fuse_can_undo = self.logic.state, self.logic.can_undo
        if state.fuse_phase == IDLE:
            state.fuse_progress, state.fuse_text = 0.0, ""

    def _add_result(self, node: Any, fused: Fused) -> None:
        self._forget()
        self._node, self._fused, self._tour = node, fused, self._doubt.Tour(node)
        display = self._results.uncertainty_of(node).GetDisplayNode()
        if display.GetColorNode() is None:  # slicer-core has no colours that come from files
            display.SetAndObserveColorNodeID(MAP_COLOURS)
        state = self._state
        state.fuse_sort = ""
        state.fuse_raters = [_row(rater) for rater in fused.raters]
        state.fuse_rows = [
            {
                "name": found.structure.name,
                "colour": "#{:02x}{:02x}{:02x}".format(*found.structure.colour),
                "volume": self._texts.millilitres(found.volume_ml),
                "spread": f"{self._texts.millilitres(found.least_ml)} – {self._texts.millilitres(found.most_ml)}",
            }
            for found in fused.structures
        ]
        for text in fused.warnings:
            if text not in state.notes:
                state.notes = [*state.notes, text]
        self.show()

    def _finished(self, run: Any) -> None:
        self._state.fuse_summary = self._texts.fused(run)

    # The views

    def show(self) -> None:
        """Shows the target, with the consensus or the disagreement over it where they belong to it."""
        if self._state.panel != "fusion":
            return
        self._say_what_is_missing()
        wanted = self._target()
        if wanted is None:
            return
        belongs = self._node is not None and wanted is self._results.reference_of(self._node)
        over = None
        if belongs and self._state.fuse_disagreement is True:
            over = self._results.uncertainty_of(self._node)
        self._views.show_one(wanted, over)
        self._display(visible=belongs)

    def _display(self, visible: bool | None = None) -> None:
        """How the consensus looks; visible None: as it was."""
        if self._node is None or not self._scene.IsNodePresent(self._node):
            return
        display = self._node.GetDisplayNode()
        opacity = self._state.fuse_opacity
        display.SetOpacity(opacity if isinstance(opacity, (int, float)) else OPACITY)
        if visible is not None:
            display.SetVisibility(visible)

    def _forget(self) -> None:
        """The consensus that was shown is not any more; its node stays if the scene still has it."""
        self._display(visible=False)
        self._node = self._fused = self._tour = None
        state = self._state
        state.fuse_rows, state.fuse_raters, state.fuse_summary, state.fuse_place = [], [], "", ""

    def _target(self) -> Any:
        known = [node.GetID() for node in self._images().values()]
        return self._scene.GetNodeByID(self._state.fuse_target) if self._state.fuse_target in known else None

    def _say_what_is_missing(self) -> None:
        state = self._state
        if not state.fuse_target:
            state.fuse_missing = "Open an image."
        elif not state.fuse_folder:
            state.fuse_missing = "Name the folder of the atlases."
        else:
            state.fuse_missing = ""

    def _tell(self, message: str) -> None:
        self._state.error = message


def picture_address(picture: npt.NDArray[np.uint8]) -> str:
    """A picture (rows, columns, 3) as an address that the browser shows."""
    rows, columns, _channels = picture.shape
    image = vtk.vtkImageData()
    image.SetDimensions(columns, rows, 1)
    # VTK counts rows from below.
    flat = np.ascontiguousarray(picture[::-1]).reshape(-1, 3)
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    writer = vtk.vtkPNGWriter()
    writer.WriteToMemoryOn()
    writer.SetInputData(image)
    writer.Write()
    return f"data:image/png;base64,{base64.b64encode(vtk_to_numpy(writer.GetResult()).tobytes()).decode()}"


def _sorted(raters: Sequence[Rater], column: str, reverse: bool) -> list[Rater]:
    """Names with their numbers in order (a9 before a10); atlases without the figure stay last."""

    def key(rater: Rater) -> Any:
        if column != "name":
            return getattr(rater, column)
        return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", rater.name)]

    known = [rater for rater in raters if column == "name" or not math.isnan(getattr(rater, column))]
    rest = [rater for rater in raters if rater not in known]
    return sorted(known, key=key, reverse=reverse) + rest


def _row(rater: Rater) -> dict[str, Any]:
    def text(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.2f}"

    return {
        "name": rater.name,
        "state": rater.state,
        "note": rater.reason or rater.state,
        "share": 0.0 if math.isnan(rater.weight) else round(100 * rater.weight, 1),
        **{name: text(getattr(rater, name)) for name in SORTED_BY[1:]},
    }
