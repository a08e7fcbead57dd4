"""What happens when the user segments: between the page's state and the scene logic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import slicer

from hyperreg.errors import HyperRegError, InputError, WeightsError
from hyperreg.mrml import geometry
from hyperreg.mrml.registration.texts import DEVICE_TITLES
from hyperreg.mrml.segmentation import inputs, results, texts
from hyperreg.mrml.segmentation.layer import segment_id
from hyperreg.mrml.segmentation.logic import SegmentationLogic
from hyperreg.segmentation import licences
from hyperreg.segmentation.catalogue import SegmentationCard, find_model, list_models, search
from hyperreg.view.borders import BorderControls
from hyperreg.view.loading import describe, read_image
from hyperreg.view.messages import Messages
from hyperreg.view.private_files import PrivateFiles
from hyperreg.view.result import ResultControls, structure_rows
from hyperreg.view.segmentation_files import write, write_dicom
from hyperreg.view.segmentation_models import can_remove
from hyperreg.view.state import ANY, SegmentationState
from hyperreg.worker.segmentation import Segmented

MODALITIES = {ANY: "All", "MR": "MRI", "CT": "CT"}


class SegmentationControls(ResultControls):
    """The segmentation panel without its page. border: of the structure that was chosen.

    state: with `SegmentationState`. segmenter: a `RemoteSegmenter` or a stand-in; whoever owns its client polls it.
    The rest: see `ResultControls`.
    """

    NAME, PREFIX, DOWNLOADS = "segmentation", "segment", "segmentation"

    def __init__(
        self,
        state: Any,
        scene: slicer.vtkMRMLScene,
        views: Any,
        segmenter: Any,
        files: PrivateFiles,
        images: Callable[[], Mapping[str, Any]],
        messages: Messages,
    ) -> None:
        logic = SegmentationLogic(scene, segmenter)
        super().__init__(state, scene, views, files, images, logic, messages)
        self._uploads: list[Any] = []
        self._chosen: dict[str, str] = {}
        state.update(asdict(SegmentationState()))
        # What is done if the user answers the question with yes.
        self._asked: Callable[[], None] | None = None
        self.border = BorderControls(state, logic.borders, self._borders_moved)
        state.segment_modalities = [{"title": title, "value": name} for name, title in MODALITIES.items()]
        self.filter_models()

    # The user's actions

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
            texts.describe_model(card),
            texts.all_structures(card),
        )
        state.segment_licence = state.segment_guess = ""
        state.segment_can_flip = card is not None and bool(card.flips)
        state.segment_flips = state.segment_flips is True and state.segment_can_flip
        state.segment_can_remove = can_remove(state.segment_model)
        state.segment_can_ensemble = card is not None and bool(card.ensemble)
        state.segment_ensemble = state.segment_ensemble is True and state.segment_can_ensemble
        state.segment_sliders = [
            {"name": h.name, "title": h.title, "hint": h.description, "value": h.default}
            for h in (card.hyperparameters if card is not None else ())
        ]
        self._offer()

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
            self._offer()
            self.show(node_id)

    def recognise(self) -> None:
        """Asks which of the open images is which input of the model."""
        state, model = self._state, str(self._state.segment_model)
        state.error, state.segment_guess = "", ""

        def told(images: dict[str, Any], guess: str) -> None:
            if state.segment_model == model:
                self._chosen |= {name: node.GetID() for name, node in images.items()}
                self._offer()
                self.show()
                state.segment_guess = texts.recognised(images, guess)

        try:
            self.logic.recognise(list(self._volumes().values()), model, told, self.tell)
        except HyperRegError as error:
            self.tell(str(error))
        else:
            state.segment_guess = "Looking which image is which ..."

    async def accept_upload(self, role: str, path: Path) -> None:
        """Takes an uploaded image for the input `role` ("input0", ...). Raises HyperRegError if it cannot be used."""
        state = self._state
        notes: list[str] = []
        try:
            volume = await asyncio.get_running_loop().run_in_executor(None, read_image, path, notes.append)
        except HyperRegError as error:
            with state:
                self.tell(str(error).replace(f"{path.parent}/", ""))
            raise
        with state:
            state.error = ""
            node = self._scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", volume.name)
            geometry.volume_to_node(volume, node)
            node.CreateDefaultDisplayNodes()
            self._uploads.append(node)
            names = [entry["name"] for entry in state.segment_inputs if entry["role"] == role]
            for note in notes:
                self._warn(note)
            self._chosen |= dict.fromkeys(names, node.GetID())
            self._offer()
            self.show(node.GetID())

    def segment(self) -> None:
        if self._current() is self._result:
            self._segment_now()
        else:
            self._ask(texts.AGAIN_QUESTION, "Segment again", self._segment_now)

    def _segment_now(self) -> None:
        state = self._state
        self._messages.clear(self.NAME)
        try:
            card = find_model(str(state.segment_model))
            if state.device not in list(DEVICE_TITLES):
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
        self._segment_now()

    def decline_licence(self) -> None:
        self._state.segment_licence = ""

    def go_to_segment(self, key: Any) -> None:
        """Shows the slices through the middle of one segment, whose border can be moved from now on."""
        super().go_to_segment(key)
        if self._segment(key) is not None:
            labels = [volume.structure.label for volume in self._result.volumes]
            self.border.choose(self._node, next(label for label in labels if segment_id(label) == key))

    def undo(self) -> None:
        """Takes the last result out of the scene; asks first where borders were moved."""
        if self._current() is self._result:
            super().undo()
        else:
            self._ask(texts.UNDO_QUESTION, "Remove it", super().undo)

    def _ask(self, question: str, yes: str, act: Callable[[], None]) -> None:
        """Asks before the user loses something. yes: what the button says that does it."""
        self._asked = act
        self._state.update({"segment_question": question, "segment_yes": yes})

    def answer(self, yes: Any) -> None:
        """Does what was asked about, or not."""
        act, self._asked = self._asked, None
        self._state.segment_question = ""
        if yes is True and act is not None:
            act()

    def step(self) -> None:
        super().step()
        self.border.step()

    # What is different from the other panel

    def _current(self) -> Segmented | None:
        return None if self._result is None else self.logic.borders.segmented

    def _forget(self) -> None:
        super()._forget()
        self.answer(False)
        self.border.choose(None, None)

    def _borders_moved(self) -> None:
        now = {segment_id(found.structure.label): found.volume_ml for found in self.logic.borders.volumes}
        self._set(rows=[{**row, "volume": texts.millilitres(now[row["key"]])} for row in self._get("rows")])
        self._views.redraw()
        self._drop_downloads()

    def _wanted(self) -> Any:
        """The image of the segmentation, or of the first input."""
        if self._node is not None and self._scene.IsNodePresent(self._node):
            return results.reference_of(self._node)
        first = next(iter(self._state.segment_inputs), None)
        return self._scene.GetNodeByID(first["volume"]) if first and first["volume"] else None

    def _describe(self, result: Segmented) -> dict[str, Any]:
        found = [
            (
                volume.structure,
                texts.millilitres(volume.volume_ml),
                texts.spread(volume.volume_ml, volume.sure_ml, volume.doubtful_ml),
            )
            for volume in result.volumes
        ]
        return {"rows": structure_rows(found)}

    def _describe_place(self, number: int, regions: Any, inside: str) -> str:
        return str(texts.uncertain_region(number, regions, inside))

    def _summary(self, run: Any) -> str:
        return str(texts.summary(run))

    def _writer(self, result: Segmented) -> Callable[[Path, str], list[tuple[str, Path]]]:
        opened = self.series_of(results.reference_of(self._node))
        leave_out = self._state.series_leave_out is True
        if opened is not None and not opened.volume.grid.matches(result.labels.grid):
            opened = None

        def write_all(folder: Path, stem: str) -> list[tuple[str, Path]]:
            written = write(result, folder, stem)
            return written if opened is None else [*written, write_dicom(result, opened, leave_out, folder)]

        return write_all

    def _volumes(self) -> dict[str, Any]:
        """The volumes that can be segmented, by node id."""
        nodes = [*self._images().values(), *self._uploads]
        return {node.GetID(): node for node in nodes if self._scene.IsNodePresent(node)}

    def _offer(self) -> None:
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
            guessed = inputs.guess(nodes, card, volumes.values())
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
                "info": describe(geometry.volume_from_node(volumes[node_id], None)) if node_id else "",
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
        return "Add a model first: see More models and settings." if not list_models() else "Choose a model."
    names = [entry.title for entry, node_id in zip(card.inputs, chosen, strict=True) if not node_id]
    if len(card.inputs) == 1 and names:
        return "Open an image."
    return f"Open or choose: {', '.join(names)}." if names else ""
