"""What happens when the user fuses atlases: between the page's state, the worker and the scene."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from hyperreg.errors import HyperRegError, InputError
from hyperreg.fusion.records import Learned, Rater
from hyperreg.mrml.fusion import texts, weights_plot
from hyperreg.mrml.fusion.logic import AtlasesLogic
from hyperreg.mrml.registration.texts import DEVICE_TITLES
from hyperreg.mrml.segmentation.results import reference_of
from hyperreg.view import chart
from hyperreg.view.fusion_files import write
from hyperreg.view.messages import Messages
from hyperreg.view.private_files import PrivateFiles
from hyperreg.view.result import ResultControls, structure_rows
from hyperreg.view.state import FusionState
from hyperreg.worker.fusion import FoundAtlas, Fused

# A row of the table of atlases can be sorted by these; larger is better.
SORTED_BY = ("name", "weight", "similarity", "dice", "sensitivity", "specificity")


class FusionControls(ResultControls):
    """The fusion panel without its page.

    state: with `FusionState`. fuser: a `RemoteFuser` or a stand-in; whoever owns its client polls it.
    The rest: see `ResultControls`.
    """

    NAME, PREFIX, DOWNLOADS = "fusion", "fuse", "fusion"

    def __init__(
        self,
        state: Any,
        scene: slicer.vtkMRMLScene,
        views: Any,
        fuser: Any,
        files: PrivateFiles,
        images: Callable[[], Mapping[str, Any]],
        messages: Messages,
    ) -> None:
        logic = AtlasesLogic(scene, fuser)
        super().__init__(state, scene, views, files, images, logic, messages)
        logic.on_atlases = self._show_atlases
        logic.on_early = self._show_early
        self._early: Any = None
        state.update(asdict(FusionState()))
        state.fuse_methods = [{"title": title, "value": name} for name, (title, _hint) in texts.METHODS.items()]
        self.choose_method()

    # The user's actions

    def _offer(self) -> None:
        """Refreshes what can be chosen as target; takes the first one if none is chosen."""
        state = self._state
        state.fuse_targets = [
            {"title": f"{title}: {node.GetName()}", "value": node.GetID()} for title, node in self._images().items()
        ]
        known = [entry["value"] for entry in state.fuse_targets]
        if state.fuse_target not in known:
            state.fuse_target = known[0] if known else ""
        self.say_what_is_missing()

    def choose_method(self) -> None:
        name = self._state.fuse_method
        self._state.fuse_method_hint = texts.METHODS[name][1] if name in list(texts.METHODS) else ""

    def look(self, place: Any) -> None:
        """Looks through a folder of atlases: which can be used, which not and why."""
        state = self._state
        folder = place.strip() if isinstance(place, str) else ""
        state.error, state.fuse_atlases, state.fuse_found = "", [], ""
        self.say_what_is_missing()
        if not folder or state.fuse_looking:
            return
        state.fuse_looking = True
        try:
            self.logic.find_atlases(folder, self._found, self._not_found)
        except HyperRegError as error:
            self._not_found(str(error))

    def fuse(self) -> None:
        """Starts fusing; everything is checked here, because the browser may have sent anything."""
        state = self._state
        self._messages.clear(self.NAME)
        try:
            target = self._target()
            if target is None:
                raise InputError("Choose the image to segment.")
            if state.fuse_method not in list(texts.METHODS):
                raise InputError("Choose a method from the list.")
            lam, select = state.fuse_lam, state.fuse_select
            if not isinstance(lam, (int, float)) or not 0 <= lam <= 1:
                raise InputError("λ must lie between 0 and 1.")
            if isinstance(select, bool) or not isinstance(select, int) or select < 0:
                raise InputError("The number of atlases to keep is 0 (all) or larger.")
            if state.device not in list(DEVICE_TITLES):
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
            self.tell(str(error))

    def keep_early(self) -> None:
        """Learns no further: the consensus so far becomes the result."""
        self.logic.keep_early()

    def sort(self, column: Any) -> None:
        """Sorts the table of atlases by a column; a second time the other way round."""
        if column not in SORTED_BY or self._result is None:
            return
        downwards = column != "name"
        reverse = downwards if self._state.fuse_sort != column else not downwards
        self._state.fuse_sort = column if reverse == downwards else f"{column} back"
        self._state.fuse_raters = [_row(rater) for rater in _sorted(self._result.raters, column, reverse)]

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
        self.say_what_is_missing()

    def _not_found(self, message: str) -> None:
        self._state.fuse_looking = False
        self.tell(message)

    def _show_atlases(self) -> None:
        self._set(
            news=[
                {
                    "name": atlas.name,
                    "text": texts.atlas_state(atlas),
                    "percent": round(100 * atlas.fraction),
                    "used": atlas.state not in texts.NOT_USED,
                }
                for atlas in self.logic.atlases
            ]
        )

    def _show_early(self, node: Any) -> None:
        """The early consensus over the image, in place of an earlier result, which comes back if this is given up."""
        self._early = node
        learned = self.logic.early.learned
        self._set(early=texts.early(learned), early_plot=self._picture(learned))
        self.show()

    def _changed(self) -> None:
        super()._changed()
        if not self.logic.atlases:
            self._set(news=[])
        if self._early is not None and self.logic.early is None:
            self._early = None
            self._set(early="", early_plot="")
            self.show()

    def _picture(self, learned: Learned | None) -> str:
        """Weights and data parameters over the steps, SVG; "" where none were learned: the table has the weights."""
        if learned is None:
            return ""
        weights = {atlas.name: atlas.weight for atlas in learned.atlases}
        values = {atlas.name: atlas.history for atlas in learned.atlases}
        course = weights_plot.Course(learned.history_steps, learned.wanted, values)
        height, shapes = weights_plot.draw(weights, course, chart.WIDTH, chart.INK)
        return chart.picture(height, shapes, "Weights of the atlases")

    # What is different from the other panel

    def leave(self) -> None:
        super().leave()
        if self._early is not None and self._scene.IsNodePresent(self._early):
            self._early.GetDisplayNode().SetVisibility(False)

    def show(self, node_id: str = "") -> None:
        """Shows the target, with the consensus or the disagreement over it where they belong to it."""
        if self._state.panel == self.NAME:
            self.say_what_is_missing()
        super().show(node_id)
        early = self._early
        if early is not None and self._scene.IsNodePresent(early):
            over = self._state.panel == self.NAME and reference_of(early) is self._wanted()
            early.GetDisplayNode().SetOpacity(self._opacity)
            early.GetDisplayNode().SetVisibility(over)
            self._display(visible=False)

    def _wanted(self) -> Any:
        return self._target()

    def _describe(self, result: Fused) -> dict[str, Any]:
        millilitres = texts.millilitres
        found = [
            (
                entry.structure,
                millilitres(entry.volumes.volume_ml),
                f"{millilitres(entry.volumes.raters_minimum_ml)} – {millilitres(entry.volumes.raters_maximum_ml)}",
            )
            for entry in result.structures
        ]
        raters = [_row(rater) for rater in result.raters]
        plot = self._picture(result.learned)
        return {"rows": structure_rows(found), "raters": raters, "sort": "", "plot": plot}

    def _describe_place(self, number: int, regions: Any, inside: str) -> str:
        return str(texts.disagreement(number, regions, inside))

    def _summary(self, run: Any) -> str:
        return str(texts.fused(run))

    def _writer(self, result: Fused) -> Callable[[Path, str], list[tuple[str, Path]]]:
        return partial(write, result)

    def _forget(self) -> None:
        super()._forget()
        self._set(raters=[], plot="")

    def _target(self) -> Any:
        known = [node.GetID() for node in self._images().values()]
        return self._scene.GetNodeByID(self._state.fuse_target) if self._state.fuse_target in known else None

    def say_what_is_missing(self) -> None:
        """What is still to be done before Fuse, in words."""
        state = self._state
        if not state.fuse_target:
            state.fuse_missing = "Open an image."
        elif not state.fuse_folder:
            state.fuse_missing = "Name the folder of the atlases: on the computer that HyperReg runs on."
        else:
            state.fuse_missing = ""


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
