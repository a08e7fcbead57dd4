"""What happens when the user segments: between the page's state and the Slicer module's logic."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import slicer

from hyperreg.errors import HyperRegError, InputError, WeightsError
from hyperreg.segmentation import licences
from hyperreg.segmentation.catalogue import SegmentationCard, find_model, list_models, search
from hyperreg.view import mrml
from hyperreg.view.loading import describe, read_image
from hyperreg.view.private_files import PrivateFiles, safe_name
from hyperreg.view.segmentation_files import write
from hyperreg.view.segmentation_models import can_remove
from hyperreg.view.state import ANY, IDLE, OPACITY, SegmentationState
from hyperreg.worker.segmentation import Segmented

MODALITIES = {ANY: "All", "MR": "MRI", "CT": "CT"}
DEVICES = ("auto", "cpu", "cuda")
DOUBT_COLOURS = "vtkMRMLColorTableNodeIron"


class SegmentationControls:
    """The segmentation panel without its page.

    state: the shared state, with `SegmentationState`. scene: the vtkMRMLScene. views: the slice views.
    segmenter: a `RemoteSegmenter` or a stand-in; whoever owns its client polls it. files: uploads and downloads.
    images(): the volume nodes that other panels have loaded, by what they are called.
    """

    def __init__(
        self,
        state: Any,
        scene: slicer.vtkMRMLScene,
        views: Any,
        segmenter: Any,
        files: PrivateFiles,
        images: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._state, self._scene, self._views, self._files, self._images = state, scene, views, files, images
        self._geometry = mrml.slicer_module("Geometry")
        self._inputs, self._results, self._doubt, self._texts = (
            mrml.slicer_module(name, mrml.SEGMENTATION) for name in ("Inputs", "Results", "Doubt", "Texts")
        )
        self.logic = mrml.slicer_module("Logic", mrml.SEGMENTATION).SegmentationLogic(scene, segmenter)
        self.logic.on_change = self._changed
        self.logic.on_progress = self._progressed
        self.logic.on_result = self._add_result
        self.logic.on_finished = self._finished
        self.logic.on_error = self.tell
        self._uploads: list[Any] = []
        self._chosen: dict[str, str] = {}
        # Of the segmentation that is shown: its node, what came with it, the way along its doubtful regions.
        self._node: Any = None
        self._segmented: Segmented | None = None
        self._tour: Any = None
        state.update(asdict(SegmentationState()))
        state.segment_modalities = [{"title": title, "value": name} for name, title in MODALITIES.items()]
        self.filter_models()

    # The user's actions

    def enter(self) -> None:
        """The panel is shown: the views show its image and the segmentation over it."""
        if self._node is not None and self._results.reference_of(self._node) is None:
            self._forget()  # its image was closed in another panel
        self._offer_volumes()
        self.show()

    def leave(self) -> None:
        """Another panel is shown."""
        self._display(visible=False)

    def filter_models(self) -> None:
        """Offers the models that fit the words and the modality; keeps the chosen one if it is among them."""
        state = self._state
        words = state.segment_words if isinstance(state.segment_words, str) else ""
        modality = state.segment_modality if state.segment_modality in ("MR", "CT") else ""
        cards = search(list_models(), words, modality)
        state.segment_models = [{"title": card.title, "value": card.name} for card in cards]
        if state.segment_model not in [card.name for card in cards]:
            state.segment_model = cards[0].name if cards else ""
        self.choose_model()

    def models_changed(self, name: str) -> None:
        """A model was added (`name`, which is chosen then) or removed ("")."""
        state = self._state
        state.segment_words, state.segment_modality = "", ANY
        state.segment_model = name or state.segment_model
        self.filter_models()

    def choose_model(self) -> None:
        """Another model was chosen: says what it is, and asks for its images."""
        card, state = self._card(), self._state
        state.segment_about, state.segment_structures = (
            self._texts.describe_model(card),
            self._texts.all_structures(card),
        )
        state.segment_licence = ""
        state.segment_can_flip = card is not None and bool(card.flips)
        state.segment_flips = state.segment_flips is True and state.segment_can_flip
        state.segment_can_remove = can_remove(state.segment_model)
        state.segment_can_ensemble = card is not None and bool(card.ensemble)
        state.segment_ensemble = state.segment_ensemble is True and state.segment_can_ensemble
        state.segment_sliders = [
            {"name": h.name, "title": h.title, "hint": h.description, "value": h.default}
            for h in (card.hyperparameters if card is not None else ())
        ]
        self._offer_volumes()

    def set_slider(self, name: Any, value: Any) -> None:
        """A hyperparameter of the model was moved."""
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
            self._state.segment_sliders = [
                {**entry, "value": float(value)} if entry["name"] == name else entry
                for entry in self._state.segment_sliders
            ]

    def choose(self, name: Any, node_id: Any) -> None:
        """Takes a volume for one of the model's inputs."""
        if name in [entry["name"] for entry in self._state.segment_inputs] and node_id in self._volumes():
            self._chosen[name] = node_id
            self._offer_volumes()
            self.show(node_id)

    async def accept_upload(self, role: str, path: Path) -> None:
        """Takes an uploaded image for the input `role` ("input0", ...). Raises HyperRegError if it cannot be used."""
        state = self._state
        with state:
            state.uploading = role
        notes: list[str] = []
        try:
            volume = await asyncio.get_running_loop().run_in_executor(None, read_image, path, notes.append)
        except HyperRegError as error:
            with state:
                self.tell(str(error).replace(f"{path.parent}/", ""))
            raise
        finally:
            with state:
                state.uploading = ""
        with state:
            state.error = ""
            node = self._scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", volume.name)
            self._geometry.volume_to_node(volume, node)
            node.CreateDefaultDisplayNodes()
            self._uploads.append(node)
            names = [entry["name"] for entry in state.segment_inputs if entry["role"] == role]
            for note in notes:
                self._warn(note)
            self._chosen |= dict.fromkeys(names, node.GetID())
            self._offer_volumes()
            self.show(node.GetID())

    def segment(self) -> None:
        state = self._state
        state.error, state.notes = "", []
        try:
            card = find_model(str(state.segment_model))
            if state.device not in DEVICES:
                raise InputError("Choose a device from the list.")
            if not licences.is_accepted(card):
                state.segment_licence = licences.licence_of(card)
                return
            self.logic.segment(
                self._chosen_nodes(card),
                card.name,
                device=state.device,
                flips=state.segment_flips is True,
                ensemble=state.segment_ensemble is True,
                hyperparameters={entry["name"]: entry["value"] for entry in state.segment_sliders},
                align=state.segment_align is True,
                show_3d=False,
            )
        except HyperRegError as error:
            self.tell(str(error))

    def accept_licence(self) -> None:
        """The user has read the licence that is shown, and accepts it."""
        card = self._card()
        if card is None or not self._state.segment_licence:
            return
        try:
            licences.accept(card)
        except HyperRegError as error:
            self.tell(str(error))
            return
        self._state.segment_licence = ""
        self.segment()

    def decline_licence(self) -> None:
        self._state.segment_licence = ""

    def cancel(self) -> None:
        self.logic.cancel()

    def undo(self) -> None:
        """Takes the last segmentation out of the scene."""
        self.logic.undo()
        self._forget()
        self.show()

    def next_doubt(self) -> None:
        """Moves the views to the next region in which the model was in doubt."""
        if self._tour is None or not self._tour.is_possible:
            return
        region = self._tour.next(self._scene)
        inside = "" if region is None else self._tour.structure()
        self._state.segment_doubt = self._texts.doubt(self._tour.number, self._tour.regions, inside)

    def set_opacity(self, opacity: Any) -> None:
        if isinstance(opacity, (int, float)) and math.isfinite(opacity) and 0 <= opacity <= 1:
            self._display()

    async def save(self) -> None:
        """Writes the segmentation that is shown for download."""
        state, segmented, node = self._state, self._segmented, self._node
        if state.segment_saving or segmented is None or node is None:
            return
        with state:
            state.segment_saving = True
        try:
            stem, folder = safe_name(node.GetName().replace(".nii.gz", "")), self._files.new_folder()
            written = await asyncio.get_running_loop().run_in_executor(None, write, segmented, folder, stem)
            with state:
                state.segment_downloads = self._files.offer(written, "segmentation")
                state.segment_downloads_title = node.GetName()
        except HyperRegError as error:
            with state:
                self.tell(str(error))
        finally:
            with state:
                state.segment_saving = False

    def close(self) -> None:
        self.logic.close()

    # What the logic says

    def _changed(self) -> None:
        self._state.segment_phase = self.logic.state
        self._state.segment_can_undo = self.logic.can_undo
        if self.logic.state == IDLE:
            self._state.segment_progress, self._state.segment_text = 0.0, ""

    def _progressed(self, fraction: float, text: str) -> None:
        self._state.segment_progress, self._state.segment_text = 100 * fraction, text

    def _add_result(self, node: Any, segmented: Segmented) -> None:
        self._forget()
        self._node, self._segmented, self._tour = node, segmented, self._doubt.Tour(node)
        display = self._results.uncertainty_of(node).GetDisplayNode()
        if display.GetColorNode() is None:  # slicer-core has no colours that come from files
            display.SetAndObserveColorNodeID(DOUBT_COLOURS)
        self._state.segment_rows = [
            {
                "name": found.structure.name,
                "colour": "#{:02x}{:02x}{:02x}".format(*found.structure.colour),
                "volume": self._texts.millilitres(found.volume_ml),
                "spread": self._texts.spread(found.volume_ml, found.sure_ml, found.doubtful_ml),
            }
            for found in segmented.volumes
        ]
        for text in segmented.warnings:
            self._warn(text)
        self.show()

    def _finished(self, run: Any) -> None:
        self._state.segment_summary = self._texts.summary(run)

    def tell(self, message: str) -> None:
        self._state.error = message

    def _warn(self, text: str) -> None:
        if text not in self._state.notes:
            self._state.notes = [*self._state.notes, text]

    # Volumes and views

    def show(self, node_id: str = "") -> None:
        """Shows a volume, or else the one that was segmented or will be; the segmentation where it belongs."""
        if self._state.panel != "segmentation":
            return
        wanted = self._scene.GetNodeByID(node_id) if node_id else self._shown_volume()
        over = None
        belongs = self._node is not None and wanted is self._results.reference_of(self._node)
        if belongs and self._state.segment_doubts is True:
            over = self._results.uncertainty_of(self._node)
        if wanted is not None:
            self._views.show_one(wanted, over)
        self._display(visible=belongs)

    def _shown_volume(self) -> Any:
        """The image of the segmentation, or of the first input."""
        if self._node is not None and self._scene.IsNodePresent(self._node):
            return self._results.reference_of(self._node)
        first = next(iter(self._state.segment_inputs), None)
        return self._scene.GetNodeByID(first["volume"]) if first and first["volume"] else None

    def _display(self, visible: bool | None = None) -> None:
        """How the segmentation looks; visible None: as it was."""
        if self._node is None or not self._scene.IsNodePresent(self._node):
            return
        display = self._node.GetDisplayNode()
        opacity = self._state.segment_opacity
        display.SetOpacity(opacity if isinstance(opacity, (int, float)) else OPACITY)
        if visible is not None:
            display.SetVisibility(visible)

    def _forget(self) -> None:
        """The segmentation that was shown is not any more; its node stays if the scene still has it."""
        self._display(visible=False)
        self._node = self._segmented = self._tour = None
        state = self._state
        state.segment_rows, state.segment_summary, state.segment_doubt = [], "", ""

    def _volumes(self) -> dict[str, Any]:
        """The volumes that can be segmented, by node id."""
        nodes = [*self._images().values(), *self._uploads]
        return {node.GetID(): node for node in nodes if self._scene.IsNodePresent(node)}

    def _offer_volumes(self) -> None:
        """Refreshes what can be chosen, and guesses what has not been chosen yet."""
        card, volumes, state = self._card(), self._volumes(), self._state
        titles = {node.GetID(): f"{title}: {node.GetName()}" for title, node in self._images().items()}
        state.segment_volumes = [
            {"title": titles.get(node_id, node.GetName()), "value": node_id} for node_id, node in volumes.items()
        ]
        entries = card.inputs if card is not None else ()
        self._chosen = {name: node_id for name, node_id in self._chosen.items() if node_id in volumes}
        if card is not None:
            nodes = {entry.name: volumes.get(self._chosen.get(entry.name, "")) for entry in entries}
            guessed = self._inputs.guess(nodes, card, volumes.values())
            self._chosen |= {name: node.GetID() for name, node in guessed.items()}
            if len(entries) == 1 and volumes:
                self._chosen.setdefault(entries[0].name, next(iter(volumes)))
        chosen = [self._chosen.get(entry.name, "") for entry in entries]
        state.segment_inputs = [
            {
                "name": entry.name,
                "title": "Volume" if len(entries) == 1 else entry.title,
                "role": f"input{number}",
                "volume": node_id,
                "info": describe(self._geometry.volume_from_node(volumes[node_id], None)) if node_id else "",
            }
            for number, (entry, node_id) in enumerate(zip(entries, chosen, strict=True))
        ]
        state.segment_missing = _missing(card, chosen)

    def _chosen_nodes(self, card: SegmentationCard) -> dict[str, Any]:
        return {entry.name: self._scene.GetNodeByID(self._chosen.get(entry.name, "")) for entry in card.inputs}

    def _card(self) -> SegmentationCard | None:
        try:
            return find_model(str(self._state.segment_model))
        except WeightsError:
            return None


def _missing(card: SegmentationCard | None, chosen: Sequence[str]) -> str:
    """What is still to be done before Segment, in words; "" for nothing."""
    if card is None:
        return "Add a model first: hyperreg models --add FILE.zip" if not list_models() else "Choose a model."
    names = [entry.title for entry, node_id in zip(card.inputs, chosen, strict=True) if not node_id]
    if len(card.inputs) == 1 and names:
        return "Open an image."
    return f"Open or choose: {', '.join(names)}." if names else ""
