"""What happens when the user does something: between the page's state, the scene logic and the worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import slicer

from hyperreg.errors import HyperRegError, InputError
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.mrml.computer import Computer
from hyperreg.mrml.lifecycle import IDLE, LIVE, RUNNING
from hyperreg.mrml.registration.logic import RegistrationLogic
from hyperreg.mrml.registration.report import Result
from hyperreg.mrml.registration.texts import DEVICE_TITLES
from hyperreg.overnight import Overnight
from hyperreg.registration.contrast import check_contrast
from hyperreg.registration.measures import metric_rows
from hyperreg.sample import SAMPLE
from hyperreg.view import choices, results
from hyperreg.view.alignment import AlignmentControls
from hyperreg.view.learning import LearningControls
from hyperreg.view.loading import IMAGES, LEFT_OUT, POINTS, REGIONS, SERIES, check_place, read_landmarks, read_role
from hyperreg.view.messages import Messages
from hyperreg.view.pair import LABELS, HeldPair, OpenPair
from hyperreg.view.panels import nothing
from hyperreg.view.private_files import PrivateFiles
from hyperreg.view.recent import IMAGE, Recent, RecentControls
from hyperreg.view.recent import SERIES as SERIES_SOURCE
from hyperreg.view.series import Opened, SeriesControls
from hyperreg.view.state import FADE, MODES, PANEL, word
from hyperreg.view.tuning import HeldMarks, TuningControls
from hyperreg.worker.live.state import Registration, Shown

log = logging.getLogger(__name__)

# How often the worker is asked for news and the slider's newest value is taken; a fraction of the time of one picture.
STEP_SECONDS = 0.01
# λ rests when there was no preview for so long.
REST_SECONDS = 0.25


@dataclass(frozen=True, eq=False)
class Before:
    """Images, marks on them, the DICOM series that they are of, and whether they were the sample pair."""

    pair: HeldPair
    marks: HeldMarks
    series: list[Opened]
    sample: bool


class Controller:
    """The app without its page.

    state: the shared state (`PageState`). scene: the vtkMRMLScene. views: the slice views.
    client, live: the worker (`WorkerClient`, `LiveRegistration`) or stand-ins. files: uploads and downloads.
    recent: the list of images that were opened last. overnight: where a training over night is; None: there is none.
    pair: the images that are open.
    """

    def __init__(
        self,
        state: Any,
        scene: slicer.vtkMRMLScene,
        views: Any,
        client: Any,
        live: Registration,
        files: PrivateFiles,
        messages: Messages,
        recent: Recent,
        overnight: Overnight | None = None,
    ) -> None:
        self._state = state
        self._views = views
        self._client = client
        self._live = live
        self._files = files
        self._messages = messages
        self.pair = OpenPair(state, scene)
        self.logic = RegistrationLogic(scene, live)
        self.logic.on_change = self._changed
        self.logic.on_result = self._result_arrived
        self.logic.on_error = self.tell
        self.logic.on_warning = self._warned
        # Told when another image is open.
        self.on_images: Callable[[], None] = nothing
        # What others have to do, a little at a time.
        self.on_step: Callable[[], None] = nothing
        # What was open while the registration was live that an undo would bring back, where it may be open no more.
        self._before: Before | None = None
        self._wanted: float | None = None
        # What was shown last, and when a preview was.
        self._shown: Shown | None = None
        self._preview_at = 0.0
        self.computer = Computer(client, lambda text: state.update({"computer_note": text}))
        self.tuning = TuningControls(state, scene, self.logic, self._move_lambda, self.tell, views, self.pair, files)
        self.series = SeriesControls(state, files, lambda: self.pair.volumes, self._take, self.tell)
        self.recent = RecentControls(state, recent, self._take, self.series.look, self.tell)
        self.series.on_listed = lambda place: self.recent.opened(place, SERIES_SOURCE)
        self.alignment = AlignmentControls(state, self.logic, self.pair, files, self.tell)
        self.learning = LearningControls(state, overnight, lambda: choices.offer(state), self.tell)
        choices.offer(state)
        self._begin_at_default()
        self.tuning.show_hyperparameters(state.model)
        self.tuning.update()
        state.lam_word = word(float(state.lam))

    # The user's actions

    def load_sample(self) -> None:
        """Opens two brain templates."""
        self.open_pair({image.role: replace(read_volume(image.path), name=image.name) for image in SAMPLE})

    def open_pair(self, volumes: Mapping[str, Volume], label_names: Mapping[int, str] | None = None) -> None:
        """Opens images, and label maps if there are any, by role. label_names: what their labels are called."""
        self._reset()
        for role, volume in volumes.items():
            self._place(role, volume, None if role in IMAGES else label_names)
        self._state.sample = True
        self._begin_at_default()
        self.show()

    def load_files(self, fixed: Path | None, moving: Path | None) -> None:
        """Opens files of this machine. Raises HyperRegError if only one is given or one cannot be used."""
        if fixed is None or moving is None:
            raise InputError("Give both images, FIXED=... and MOVING=..., or neither to see the sample pair.")
        given = (("fixed", fixed), ("moving", moving))
        read = {role: read_role(role, path, self._warned, confined=False) for role, path in given}
        for role, (volume, names) in read.items():
            self._place(role, volume, names)
        for path in (moving, fixed):
            self.recent.opened(path, IMAGE)
        self._begin_at_default()
        self.show()

    async def accept_upload(self, role: str, path: Path) -> None:
        """Takes an uploaded file over. Raises HyperRegError, and leaves everything as it was, if it cannot be used."""
        notes: list[str] = []
        try:
            if role == SERIES:
                await self.series.accept_upload(path)
                return
            if role in POINTS:
                self._place_points(role, path)
                return
            volume, names = await asyncio.get_running_loop().run_in_executor(None, read_role, role, path, notes.append)
            notes += check_place(role, volume, self.pair.volumes)
            if role == REGIONS or role in LEFT_OUT:
                with self._state:
                    self._state.error = ""
                    self.tuning.place_area(role, volume, names)
                return
        except HyperRegError as error:
            with self._state:
                self.tell(str(error).replace(f"{path.parent}/", ""))
            raise
        with self._state:
            self._take(role, volume, notes, names)

    def _take(self, role: str, volume: Volume, notes: list[str], names: Mapping[int, str] | None = None) -> None:
        """Opens an image or a label map of one. names: of its labels."""
        self._reset()
        self._state.error = ""
        if role in IMAGES and self._state.sample:
            # One's own image has nothing to do with the sample's other half, nor with its label maps.
            for other in ("fixed_labels", "moving_labels"):
                self.pair.remove(other)
            self._state.sample = False
        self._place(role, volume, names)
        if role in IMAGES:
            self._begin_at_default()
        for note in notes:
            self._warned(note)
        self.show()

    def _place_points(self, role: str, path: Path) -> None:
        if role.removesuffix("_points") not in self.pair.volumes:
            raise InputError("Load the image first, then the landmarks that were placed on it.")
        points, names = read_landmarks(path, self._warned)
        with self._state:
            self._state.error = ""
            self.tuning.landmarks.open(role, points, names, path.name)

    def remove_labels(self, role: str) -> None:
        """Forgets the label map of the "fixed" or "moving" image."""
        if role in LABELS:
            self._reset()
            self.pair.remove(LABELS[role])

    def align_centres(self) -> None:
        """Brings images into sight of each other that lie far apart."""
        self._shift(self.pair.align_centres)

    def undo_centring(self) -> None:
        """The moving image lies where its file says again."""
        self._shift(self.pair.undo_centring)

    def _shift(self, move: Callable[[], None]) -> None:
        self._reset()
        move()
        self.tuning.update()
        self.show(fit=True)

    def use_fixed_labels(self) -> None:
        """Takes the fixed image's label map for regions too."""
        if LABELS["fixed"] in self.pair.volumes:
            try:
                self.tuning.place_regions(self.pair.volumes[LABELS["fixed"]], self.pair.fixed_names)
            except InputError as error:
                self.tell(str(error))

    def register(self) -> None:
        state = self._state
        self._messages.clear(PANEL)
        try:
            choices.check(state)
            self.logic.register(
                self.pair.nodes.get("fixed"),
                self.pair.nodes.get("moving"),
                lam=choices.check_lambda(state.lam),
                model=state.model,
                device=state.device,
                initial=state.alignment,
                contrast=check_contrast(state.contrast),
                symmetric=state.symmetric is True,
                **self.pair.label_nodes(),
            )
        except HyperRegError as error:
            self.tell(str(error))

    def cancel(self) -> None:
        self.logic.cancel()
        self._state.progress_text = ""

    def reset(self) -> None:
        """Back to both images as they were loaded, until `undo_reset`."""
        self._end()
        self.tuning.put_left_out_aside()
        self._state.error = ""

    def undo_reset(self) -> None:
        """The registration that was ended last is live again, with the images that it was of."""
        self._messages.clear(PANEL)
        before, self._before = self._before, None
        if before is not None:
            self.pair.bring_back(before.pair)
            self.series.bring_back(before.series)
            self._state.sample = before.sample
            self.tuning.bring_back(before.marks)
            self.on_images()
        # What is left out is part of what the registration was told, or it would have to be computed again.
        self.tuning.bring_left_out_back()
        try:
            self.logic.undo_reset()
        except InputError as error:
            self.tuning.put_left_out_aside()
            self.tell(str(error))
            return
        self._move_lambda(self.logic.lam)
        self.show()

    def ask_lambda(self, lam: Any) -> None:
        """The slider moved; the newest value is taken by the next `step`, so that a slow machine skips, not lags."""
        try:
            self._wanted = choices.check_lambda(lam)
        except InputError as error:
            self._state.lam = self.logic.lam
            self.tell(str(error))
        else:
            self._state.lam_word = word(self._wanted)

    def choose_model(self, model: Any) -> None:
        """Another model was chosen for the next registration: its hyperparameters begin with their defaults."""
        self.tuning.show_hyperparameters(model)
        if self.logic.state == IDLE and choices.is_model(self._state, model):
            self._begin_at_default()

    def _begin_at_default(self) -> None:
        """The slider goes to the λ with which the chosen model begins."""
        self._move_lambda(choices.default_lambda(self._state))

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
        volumes = self.pair.volumes
        result = self.logic.result(volumes["fixed"], volumes["moving"], volumes.get("moving_labels"))
        forward, inverse = self.pair.from_file(result.transform, result.inverse)
        linear, _back = self.pair.from_file(result.linear, Transform())
        result = replace(result, transform=forward, inverse=inverse, linear=linear)
        told = self._nameless(result) if state.series_leave_out is True else result
        with state:
            state.saving = True
        try:
            folder = self._files.new_folder()
            written = await asyncio.get_running_loop().run_in_executor(None, results.write, told, folder)
            try:
                written += await self._dicom(told, folder)
            except HyperRegError as error:
                with state:
                    self.tell(str(error))
            with state:
                if self.pair.volumes.get("moving") is not result.moving or self.logic.state != LIVE:
                    return  # meanwhile it has become the result of another pair
                state.downloads = self._files.offer(written)
                state.downloads_title = f"{result.moving.name} on {result.fixed.name}, λ = {result.lam:.2f}, " + (
                    result.stage.text
                )
        except HyperRegError as error:
            with state:
                self.tell(str(error))
        finally:
            with state:
                state.saving = False

    def _nameless(self, result: Result) -> Result:
        """A result that does not tell what DICOM series are called."""
        warnings, images = result.warnings, []
        for role, image in zip(IMAGES, (result.fixed, result.moving), strict=True):
            opened = self.series.opened(role)
            name = image.name if opened is None else opened.nameless
            warnings = tuple(text.replace(image.name, name) for text in warnings)
            images.append(replace(image, name=name))
        return replace(result, fixed=images[0], moving=images[1], warnings=warnings)

    async def _dicom(self, result: Result, folder: Path) -> list[tuple[str, Path]]:
        """What DICOM has for a result of two series; nothing for other images. Raises HyperRegError."""
        if not self.series.both():
            return []
        leave_out = self._state.series_leave_out is True
        sources = self.series.sources(leave_out)
        write = partial(results.write_dicom, result, sources, leave_out, folder)
        return [await asyncio.get_running_loop().run_in_executor(None, write)]

    def series_of(self, node: Any) -> Opened | None:
        """The DICOM series that a node of an image was opened from; None if it was another file."""
        role = next((role for role in IMAGES if self.pair.nodes.get(role) is node), "")
        return self.series.opened(role)

    def tell(self, message: str) -> None:
        """Shows an error until the user closes it."""
        self._messages.tell(PANEL, message)

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
            self.learning.step()
            self.on_step()
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
        """Shows what the logic says now."""
        state, live = self._state, self.logic.live
        if self.logic.state == IDLE:
            self._forget_metrics()
        state.phase, state.can_undo_reset = self.logic.state, self.logic.can_undo_reset
        state.undo_title = "Undo reset" if self._before is None else "Undo"
        if live.progress is not None and state.phase == RUNNING:
            state.progress, state.progress_text = 100 * live.progress[0], live.progress[1] or "Starting"
        self._show_preview(live.shown)
        state.can_save = state.solved = self.logic.can_keep
        state.solved_lam = live.shown.lam if live.shown is not None and state.solved else -1.0
        state.fresh = bool(live.metrics)
        state.rows = metric_rows(live.metrics) if state.fresh else [{**row, "now": ""} for row in state.rows]
        if state.phase == LIVE:
            state.device_used = DEVICE_TITLES.get(live.device, live.device)
        self.tuning.update()
        self.alignment.update()

    def _show_preview(self, shown: Shown | None) -> None:
        """While λ moves the views are drawn more coarsely."""
        if shown is not self._shown and shown is not None and not shown.solved:
            self._preview_at = time.monotonic()
            self._views.set_draft(True)
        self._shown = shown

    def _result_arrived(self) -> None:
        self._forget_metrics()
        self._forget_before()
        if self.logic.state != LIVE:
            self.show()  # it is an alignment

    def _warned(self, text: str) -> None:
        self._messages.warn(PANEL, text)

    # Nodes

    def show(self, *, fit: bool = False) -> None:
        """Puts both images into the views. fit: centres them although they were shown before."""
        self._state.series_opened = any(self.series.opened(role) for role in IMAGES)
        if self.pair.is_complete:
            nodes = self.pair.nodes
            self._views.show(self._state.mode, nodes["fixed"], nodes["moving"], float(self._state.fade))
            if fit:
                self._views.centre()

    def _reset(self) -> None:
        """Ends what is going on: the images, or what belongs to them, become others. See `undo_reset`."""
        if self.logic.state == RUNNING:
            self.logic.cancel()
        ended = self.logic.can_reset
        self._end()
        # If nothing was live any more, what was open while it was is held already, unless it still is open.
        if self.logic.can_undo_reset and (ended or self._before is None):
            held = self.pair.hold(), self.tuning.hold(), self.series.hold()
            self._before = Before(*held, bool(self._state.sample))
            self._changed()

    def _forget_before(self) -> None:
        """What was live before cannot be brought back any more: its nodes are wanted no more."""
        before, self._before = self._before, None
        if before is not None:
            self.pair.drop(before.pair)
            self.tuning.drop(before.marks)
        self.tuning.drop_left_out_aside()

    def _end(self) -> None:
        if self.logic.state == RUNNING:
            self.logic.cancel()
        self.logic.reset()
        self._forget_metrics()

    def _forget_metrics(self) -> None:
        """Numbers and files belong to one registration, and go with it."""
        state = self._state
        if state.downloads:
            state.downloads, state.downloads_title = self._files.offer([]), ""
        state.rows, state.fresh, state.device_used = [], False, ""

    def _place(self, role: str, volume: Volume, names: Mapping[int, str] | None = None) -> None:
        """Opens a volume in the place of the one that had the role; what belonged to that one goes with it."""
        if role == "fixed":
            self.tuning.remove_regions()
        if role in IMAGES:
            self.tuning.landmarks.image_leaves(role)
            self.tuning.remove_left_out(f"{role}_left_out")
        self.pair.place(role, volume, names or {})
        self.on_images()
