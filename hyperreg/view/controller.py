"""What happens when the user does something: between the page's state, the Slicer module's logic and the worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import slicer

from hyperreg.errors import HyperRegError, InputError
from hyperreg.imaging.volume import Volume
from hyperreg.phantom import LABEL_NAMES, PhantomPair, head_phantom_pair
from hyperreg.registration.catalogue import default_model, list_models
from hyperreg.view import mrml, results
from hyperreg.view.loading import IMAGES, POINTS, check_place, describe, read_landmarks, read_role
from hyperreg.view.private_files import PrivateFiles
from hyperreg.view.state import FADE, IDLE, LIVE, MODES, RUNNING, metric_rows, word
from hyperreg.view.tuning import TuningControls

log = logging.getLogger(__name__)

# How often the worker is asked for news and the slider's newest value is taken; a fraction of the time of one picture.
STEP_SECONDS = 0.01
# λ rests when there was no preview for so long.
REST_SECONDS = 0.25
LABELS = {"fixed": "fixed_labels", "moving": "moving_labels"}
REGIONS = "regions"
DEVICES = {"auto": "Automatic", "cpu": "CPU", "cuda": "GPU"}
INITIALS = {
    "affine": "Affine (recommended)",
    "rigid": "Rigid",
    "com": "Centres of mass",
    "none": "None: already aligned",
}


class Controller:
    """The app without its page.

    state: the shared state (`PageState`). scene: the vtkMRMLScene. views: the slice views.
    client, live: the worker (`WorkerClient`, `LiveRegistration`) or stand-ins. files: uploads and downloads.
    """

    def __init__(
        self, state: Any, scene: slicer.vtkMRMLScene, views: Any, client: Any, live: Any, files: PrivateFiles
    ) -> None:
        self._state = state
        self._scene = scene
        self._views = views
        self._client = client
        self._live = live
        self._files = files
        self._geometry = mrml.slicer_module("Geometry")
        self.logic = mrml.slicer_module("Logic").RegistrationLogic(scene, live)
        self.logic.on_change = self._changed
        self.logic.on_progress = self._progressed
        self.logic.on_field = self._field_shown
        self.logic.on_metrics = self._measured
        self.logic.on_error = self.tell
        self.logic.on_warning = self._warned
        live.on_anchor = self._anchored
        self._logic_ready, live.on_ready = live.on_ready, self._ready
        self._volumes: dict[str, Volume] = {}
        self._nodes: dict[str, Any] = {}
        self._label_names: dict[int, str] = {}
        self._wanted: float | None = None
        self._preview_at = 0.0
        # Model and initial alignment of the registration that is being prepared, and of the one that is live.
        self._next = self._current = ("", "")
        self._measured_at: float | None = None
        self.tuning = TuningControls(state, scene, self.logic, self._move_lambda, self.tell)
        self._offer_choices()
        self.tuning.show_hyperparameters(state.model)
        self.tuning.update()
        state.lam_word = word(float(state.lam))

    def _offer_choices(self) -> None:
        state = self._state
        models = list_models()
        state.models = [{"title": card.title, "value": card.name} for card in models]
        state.devices = [{"title": title, "value": name} for name, title in DEVICES.items()]
        state.alignments = [{"title": title, "value": name} for name, title in INITIALS.items()]
        if not models:
            state.model = ""
            state.error = "No registration model is installed, so nothing can be registered. Reinstall HyperReg."
        elif state.model not in [card.name for card in models]:
            state.model = default_model()

    # The user's actions

    def load_sample(self, pair: PhantomPair | None = None) -> None:
        """Opens the generated head and its known deformation."""
        pair = pair or head_phantom_pair()
        self._reset()
        for role, volume in (("fixed", pair.fixed), ("moving", pair.moving)):
            self._place(role, volume)
        self._place("fixed_labels", pair.fixed_labels)
        self._place("moving_labels", pair.moving_labels)
        self._label_names = {label: name.capitalize() for label, name in LABEL_NAMES.items()}
        self._state.sample = True
        self.show()

    def load_files(self, fixed: Path | None, moving: Path | None) -> None:
        """Opens files of this machine. Raises HyperRegError if only one is given or one cannot be used."""
        if fixed is None or moving is None:
            raise InputError("Give both images, FIXED=... and MOVING=..., or neither to see the sample pair.")
        given = (("fixed", fixed), ("moving", moving))
        read = {role: read_role(role, path, self._warned, confined=False) for role, path in given}
        for role, volume in read.items():
            self._place(role, volume)
        self.show()

    async def accept_upload(self, role: str, path: Path) -> None:
        """Takes an uploaded file over. Raises HyperRegError, and leaves everything as it was, if it cannot be used."""
        with self._state:
            self._state.uploading = role
        notes: list[str] = []
        try:
            if role in POINTS:
                self._place_points(role, path)
                return
            volume = await asyncio.get_running_loop().run_in_executor(None, read_role, role, path, notes.append)
            notes += check_place(role, volume, self._volumes)
            if role == REGIONS:
                with self._state:
                    self._state.error = ""
                    self.tuning.place_regions(volume)
                return
        except HyperRegError as error:
            with self._state:
                self.tell(str(error).replace(f"{path.parent}/", ""))
            raise
        finally:
            with self._state:
                self._state.uploading = ""
        with self._state:
            self._reset()
            self._state.error = ""
            if role in IMAGES and self._state.sample:
                # One's own image has nothing to do with the sample's other half, nor with its label maps.
                for other in ("fixed_labels", "moving_labels"):
                    self._remove(other)
                self._state.sample = False
            self._place(role, volume)
            for note in notes:
                self._warned(note)
            self.show()

    def _place_points(self, role: str, path: Path) -> None:
        if role.removesuffix("_points") not in self._volumes:
            raise InputError("Load the image first, then the landmarks that were placed on it.")
        points = read_landmarks(path, self._warned)
        with self._state:
            self._state.error = ""
            self.tuning.place_points(role, points, path.name)

    def remove_labels(self, role: str) -> None:
        """Forgets the label map of the "fixed" or "moving" image."""
        if role in LABELS:
            self._reset()
            self._remove(LABELS[role])

    def use_fixed_labels(self) -> None:
        """Takes the fixed image's label map for regions too."""
        if LABELS["fixed"] in self._volumes:
            try:
                self.tuning.place_regions(self._volumes[LABELS["fixed"]], self._label_names)
            except InputError as error:
                self.tell(str(error))

    def register(self) -> None:
        state = self._state
        state.error, state.notes = "", []
        try:
            if state.alignment not in INITIALS or state.device not in DEVICES:
                raise InputError("Choose an initial alignment and a device from the lists.")
            if not state.model:
                raise InputError("No registration model is installed. Reinstall HyperReg.")
            both_labels = all(role in self._nodes for role in LABELS.values())
            self._next = (state.model, state.alignment)
            state.progress, state.progress_text = 0.0, "Starting"
            self.logic.register(
                self._nodes.get("fixed"),
                self._nodes.get("moving"),
                lam=_lambda(state.lam),
                model=state.model,
                device=state.device,
                initial=state.alignment,
                fixed_labels=self._nodes["fixed_labels"] if both_labels else None,
                moving_labels=self._nodes["moving_labels"] if both_labels else None,
            )
        except HyperRegError as error:
            self.tell(str(error))

    def cancel(self) -> None:
        self.logic.cancel()
        self._state.progress_text = ""

    def reset(self) -> None:
        """Back to both images as they were loaded."""
        self._reset()
        self._state.error = ""

    def ask_lambda(self, lam: Any) -> None:
        """The slider moved; the newest value is taken by the next `step`, so that a slow machine skips, not lags."""
        try:
            self._wanted = _lambda(lam)
        except InputError as error:
            self._state.lam = self.logic.lam
            self.tell(str(error))
        else:
            self._state.lam_word = word(self._wanted)

    def _move_lambda(self, lam: float) -> None:
        """Moves the slider."""
        self._state.lam = lam
        self.ask_lambda(lam)

    def set_mode(self, mode: Any) -> None:
        if mode not in MODES:
            self._state.mode = FADE
        self.show()

    def set_fade(self, fade: Any) -> None:
        if isinstance(fade, (int, float)) and 0 <= fade <= 1 and self._state.mode == FADE:
            self._views.set_fade(float(fade))

    async def save(self) -> None:
        """Writes what is shown for download."""
        state = self._state
        if state.saving or not self.logic.can_keep:
            return
        model, initial = self._current
        result = results.Result(
            lam=self.logic.lam,
            refined=self.logic.refined,
            settings=self.logic.shown.settings,
            fixed=self._volumes["fixed"],
            moving=self._volumes["moving"],
            moving_labels=self._volumes.get("moving_labels"),
            transform=self._live.transform(),
            inverse=self._live.inverse_transform(),
            metrics=dict(self.logic.metrics) if state.fresh else {},
            model=model,
            device=self._live.device,
            initial=initial,
            warnings=tuple(state.notes),
        )
        with state:
            state.saving = True
        try:
            folder = self._files.new_folder()
            written = await asyncio.get_running_loop().run_in_executor(None, results.write, result, folder)
            with state:
                state.downloads = self._files.offer(written)
                state.downloads_title = f"Result at λ = {result.lam:.2f}" + (", refined" if result.refined else "")
        except HyperRegError as error:
            with state:
                self.tell(str(error))
        finally:
            with state:
                state.saving = False

    def tell(self, message: str) -> None:
        """Shows an error until the user closes it."""
        self._state.error = message

    # The clock

    async def run(self) -> None:
        """Steps until cancelled."""
        while True:
            with self._state:
                self.step()
            await asyncio.sleep(STEP_SECONDS)

    def step(self) -> None:
        """Takes the worker's news and the slider's newest value."""
        try:
            self._client.poll()
            if self._wanted is not None:
                lam, self._wanted = self._wanted, None
                self.logic.set_lambda(lam)
            self.tuning.step()
            if time.monotonic() > self._preview_at + REST_SECONDS:
                self._views.set_draft(False)
        except HyperRegError as error:
            self.tell(str(error))
        except Exception as error:
            log.exception("HyperReg: unexpected error")
            self.tell(f"Something unexpected went wrong ({error!r}). The images are unchanged; register again.")

    def close(self) -> None:
        self.logic.close()
        self._live.close()
        self._client.stop()
        self._files.remove()

    # What the logic says

    def _changed(self) -> None:
        state = self._state
        if self.logic.state == IDLE:
            self._forget_figures()
        state.phase = {"idle": IDLE, "running": RUNNING, "live": LIVE}[self.logic.state]
        state.can_save = self.logic.can_keep
        state.exact = self.logic.is_exact
        state.exact_lam = -1.0 if self.logic.exact_lam is None else self.logic.exact_lam
        state.fresh = state.exact and bool(self.logic.metrics) and self._measured_at == self.logic.exact_lam
        if state.phase == LIVE:
            state.device_used = DEVICES.get(self._live.device, self._live.device)
            state.anchors = self._live.anchor_count
        self.tuning.update()

    def _ready(self) -> None:
        self._forget_figures()
        self._current = self._next
        self._logic_ready()

    def _progressed(self, fraction: float, text: str) -> None:
        self._state.progress, self._state.progress_text = 100 * fraction, text

    def _field_shown(self, _lam: float, exact: bool) -> None:
        self._state.exact = exact
        if not exact:
            self._preview_at = time.monotonic()
            self._views.set_draft(True)

    def _measured(self, metrics: Mapping[str, Any], lam: float) -> None:
        self._state.rows = metric_rows(metrics)
        self._measured_at = lam
        self._changed()

    def _warned(self, text: str) -> None:
        if text not in self._state.notes:
            self._state.notes = [*self._state.notes, text]

    def _anchored(self) -> None:
        self._state.anchors = self._live.anchor_count

    # Nodes

    def images(self) -> dict[str, Any]:
        """The nodes of both images, as far as they are open, by what the page calls them."""
        return {role.capitalize(): self._nodes[role] for role in IMAGES if role in self._nodes}

    def show(self) -> None:
        """Puts both images into the views."""
        if all(role in self._nodes for role in IMAGES):
            self._views.show(self._state.mode, self._nodes["fixed"], self._nodes["moving"], float(self._state.fade))

    def _reset(self) -> None:
        if self.logic.state == RUNNING:
            self.logic.cancel()
        self.logic.reset()
        self._forget_figures()

    def _forget_figures(self) -> None:
        state = self._state
        state.rows, state.fresh, state.anchors, state.device_used = [], False, 0, ""
        self._measured_at = None

    def _place(self, role: str, volume: Volume) -> None:
        """Makes a node of a volume, in the place of the one that had the role."""
        self._remove(role)
        if role == "fixed":
            self.tuning.remove_regions()
        if role in IMAGES:
            self._remove(LABELS[role])
            self.tuning.remove_points(f"{role}_points")
        kind = "vtkMRMLScalarVolumeNode" if role in IMAGES else "vtkMRMLLabelMapVolumeNode"
        node = self._scene.AddNewNodeByClass(kind, volume.name)
        self._geometry.volume_to_node(volume, node)
        node.CreateDefaultDisplayNodes()
        self._nodes[role], self._volumes[role] = node, volume
        setattr(self._state, f"{role}_name", volume.name)
        if role in IMAGES:
            setattr(self._state, f"{role}_info", describe(volume))

    def _remove(self, role: str) -> None:
        self._volumes.pop(role, None)
        if role == LABELS["fixed"]:
            self._label_names = {}
        node = self._nodes.pop(role, None)
        setattr(self._state, f"{role}_name", "")
        if node is not None:
            self._scene.RemoveNode(node)


def _lambda(value: Any) -> float:
    """Raises InputError for what is no λ."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"λ is a number between 0 (most flexible) and 1 (most rigid), not {value!r}.")
    return float(value)
