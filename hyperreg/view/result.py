"""What the panels that segment an image have in common: a run, and its result over the image in the views."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import slicer

from hyperreg.errors import HyperRegError
from hyperreg.imaging.structures import Structure
from hyperreg.mrml.lifecycle import IDLE
from hyperreg.mrml.segmentation.layer import segment_id
from hyperreg.mrml.segmentation.results import reference_of, uncertainty_of
from hyperreg.mrml.segmentation.uncertainty import Tour
from hyperreg.view.messages import Messages
from hyperreg.view.private_files import PrivateFiles, safe_name
from hyperreg.view.series import Opened
from hyperreg.view.state import OPACITY

MAP_COLOURS = "vtkMRMLColorTableNodeIron"


class ResultControls:
    """The base of such a panel, without its page.

    state: the shared state; the panel's entries begin with PREFIX. scene: the vtkMRMLScene. views: the slice views.
    files: uploads and downloads. images(): the volume nodes that other panels have loaded, by what they are called.
    logic: a `RunLogic`.
    """

    # The panel, how its entries in the state begin, and the folder of its downloads.
    NAME = PREFIX = DOWNLOADS = ""

    def __init__(
        self,
        state: Any,
        scene: slicer.vtkMRMLScene,
        views: Any,
        files: PrivateFiles,
        images: Callable[[], Mapping[str, Any]],
        logic: Any,
        messages: Messages,
    ) -> None:
        self._state, self._scene, self._views, self._files, self._images = state, scene, views, files, images
        self._messages = messages
        # The DICOM series that an image's node was opened from, None if it was another file.
        self.series_of: Callable[[Any], Opened | None] = lambda _node: None
        self.logic = logic
        logic.on_change = self._changed
        logic.on_progress = self._progressed
        logic.on_result = self._add_result
        logic.on_finished = self._finished
        logic.on_error = self.tell
        # Of the segmentation that is shown: its node, what came with it, the way along its uncertain places.
        self._node: Any = None
        self._result: Any = None
        self._tour: Any = None

    # What is different

    def _offer(self) -> None:
        """Refreshes what can be chosen."""
        raise NotImplementedError

    def _wanted(self) -> Any:
        """The volume node that the views show; None for none."""
        raise NotImplementedError

    def _describe(self, result: Any) -> dict[str, Any]:
        """What the page says of a result: entries of the state without their prefix, `rows` among them."""
        raise NotImplementedError

    def _describe_place(self, number: int, regions: Any, inside: str) -> str:
        """Which uncertain place is shown."""
        raise NotImplementedError

    def _summary(self, run: Any) -> str:
        """What has become of a run."""
        raise NotImplementedError

    def _current(self) -> Any:
        """The result that is shown, as it is now; None for none."""
        return self._result

    def _writer(self, result: Any) -> Callable[[Path, str], list[tuple[str, Path]]]:
        """What writes the files of a result into a folder, in another thread; (title, path) of each. Raises FileError.

        Called with the folder and how the names of the files begin.
        """
        raise NotImplementedError

    # The user's actions

    def enter(self) -> None:
        """The panel is shown: the views show its image and the segmentation over it."""
        if self._node is not None and reference_of(self._node) is None:
            self._forget()  # its image was closed in another panel
        self._offer()
        self.show()

    def leave(self) -> None:
        """Another panel is shown."""
        self._display(visible=False)

    def cancel(self) -> None:
        self.logic.cancel()

    def undo(self) -> None:
        """Takes the last result out of the scene."""
        self.logic.undo()
        self._forget()
        self.show()

    def next_place(self) -> None:
        """Moves the views to the next place that is uncertain, the largest first."""
        if self._tour is None or not self._tour.is_possible:
            return
        region = self._tour.next(self._scene)
        self._views.fit()  # the slices through the place, all of the image, and the crosshair there
        inside = "" if region is None else self._tour.structure()
        self._set(place=self._describe_place(self._tour.number, self._tour.regions, inside))

    def show_segment(self, key: Any, on: Any) -> None:
        """Shows or hides one segment."""
        if isinstance(on, bool) and self._segment(key) is not None:
            self._node.GetDisplayNode().SetSegmentVisibility(key, on)
            self._set(rows=[{**row, "shown": on} if row["key"] == key else row for row in self._get("rows")])

    def show_all_segments(self, on: Any) -> None:
        """Shows or hides all of them."""
        for row in self._get("rows"):
            self.show_segment(row["key"], on)

    def go_to_segment(self, key: Any) -> None:
        """Shows the slices through the middle of one segment."""
        if self._segment(key) is not None:
            centre = self._node.GetSegmentCenterRAS(key)
            if centre is not None:
                self._views.jump(centre)
                self._views.fit()

    def show_surfaces(self) -> None:
        """The 3D view wants the surfaces of the segments; harmless without a segmentation. See `step`."""
        if self._node is not None and self._scene.IsNodePresent(self._node):
            self.logic.surfaces.add(self._node)

    def step(self) -> None:
        """Makes the next surface while the 3D view is shown: thirty at once would leave the page waiting."""
        if self._state.in_3d is True:
            self.logic.surfaces.step()

    def _segment(self, key: Any) -> Any:
        if self._node is None or not self._scene.IsNodePresent(self._node) or not isinstance(key, str):
            return None
        return self._node.GetSegmentation().GetSegment(key)

    def set_opacity(self, opacity: Any) -> None:
        if isinstance(opacity, (int, float)) and math.isfinite(opacity) and 0 <= opacity <= 1:
            self._display()

    async def save(self) -> None:
        """Writes the result that is shown for download."""
        state, result, node = self._state, self._current(), self._node
        if self._get("saving") or result is None or node is None:
            return
        with state:
            self._set(saving=True)
        try:
            stem, folder = safe_name(self._name_of(node).replace(".nii.gz", "")), self._files.new_folder()
            write = self._writer(result)
            written = await asyncio.get_running_loop().run_in_executor(None, write, folder, stem)
            with state:
                self._set(downloads=self._files.offer(written, self.DOWNLOADS), downloads_title=node.GetName())
        except HyperRegError as error:
            with state:
                self.tell(str(error))
        finally:
            with state:
                self._set(saving=False)

    def _name_of(self, node: Any) -> str:
        """What the files of a result are called; not what its DICOM series is called, if patient data is left out."""
        name, image = str(node.GetName()), reference_of(node)
        opened = None if image is None else self.series_of(image)
        if image is None or opened is None or self._state.series_leave_out is not True:
            return name
        return name.replace(image.GetName(), opened.nameless)

    def close(self) -> None:
        self.logic.close()

    # What the logic says

    def _changed(self) -> None:
        self._set(phase=self.logic.state, can_undo=self.logic.can_undo)
        if self.logic.state == IDLE:
            self._set(progress=0.0, text="")

    def _progressed(self, fraction: float, text: str) -> None:
        self._set(progress=100 * fraction, text=text)

    def _add_result(self, node: Any, result: Any) -> None:
        self._forget()
        self._node, self._result, self._tour = node, result, Tour(node)
        over = uncertainty_of(node)
        display = over.GetDisplayNode() if over is not None else None
        if display is not None and display.GetColorNode() is None:  # slicer-core has no colours that come from files
            display.SetAndObserveColorNodeID(MAP_COLOURS)
        self._set(**self._describe(result))
        for text in result.warnings:
            self._warn(text)
        if self._state.in_3d is True:
            self.show_surfaces()
        self.show()

    def _finished(self, run: Any) -> None:
        self._set(summary=self._summary(run))

    def tell(self, message: str) -> None:
        self._messages.tell(self.NAME, message)

    def _warn(self, text: str) -> None:
        self._messages.warn(self.NAME, text)

    # The views

    def show(self, node_id: str = "") -> None:
        """Shows a volume, or else the panel's own; the segmentation or its map over it where they belong to it."""
        if self._state.panel != self.NAME:
            return
        wanted = self._scene.GetNodeByID(node_id) if node_id else self._wanted()
        belongs = wanted is not None and self._node is not None and wanted is reference_of(self._node)
        over = uncertainty_of(self._node) if belongs and self._get("map") is True else None
        if belongs:
            self._node.GetDisplayNode().SetVisibility2DFill(over is None)  # outlines, so that the map is seen
        if wanted is not None:
            self._views.show_one(wanted, over)
        self._set(current=belongs)
        self._display(visible=belongs)

    def _display(self, visible: bool | None = None) -> None:
        """How the segmentation looks; visible None: as it was."""
        if self._node is None or not self._scene.IsNodePresent(self._node):
            return
        display = self._node.GetDisplayNode()
        display.SetOpacity(self._opacity)
        if visible is not None:
            display.SetVisibility(visible)

    @property
    def _opacity(self) -> float:
        opacity = self._get("opacity")
        return opacity if isinstance(opacity, (int, float)) else OPACITY

    def _forget(self) -> None:
        """The segmentation that was shown is not any more; its node stays if the scene still has it."""
        self._display(visible=False)
        self._node = self._result = self._tour = None
        self._set(rows=[], summary="", place="", current=False)
        self._drop_downloads()

    def _drop_downloads(self) -> None:
        """Takes files away that are not of what is shown any more."""
        if self._get("downloads"):
            self._set(downloads=self._files.offer([], self.DOWNLOADS), downloads_title="")

    # The panel's entries in the state

    def _set(self, **entries: Any) -> None:
        self._state.update({f"{self.PREFIX}_{name}": value for name, value in entries.items()})

    def _get(self, name: str) -> Any:
        return self._state[f"{self.PREFIX}_{name}"]


def structure_rows(found: Sequence[tuple[Structure, str, str]]) -> list[dict[str, Any]]:
    """The table of structures, from each with its volume and that volume's spread, in words."""
    return [
        {
            "key": segment_id(structure.label),
            "shown": True,
            "name": structure.name,
            "colour": "#{:02x}{:02x}{:02x}".format(*structure.colour),
            "volume": volume,
            "spread": spread,
        }
        for structure, volume, spread in found
    ]
