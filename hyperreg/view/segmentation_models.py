"""Segmentation models that the user adds in the browser, and takes away again: the worker reads them, as data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperreg.catalogue import own_models
from hyperreg.errors import InputError, WeightsError
from hyperreg.segmentation.catalogue import find_model
from hyperreg.view.private_files import PrivateFiles
from hyperreg.worker.models import ModelStore

BUSY = "Another model is being added; finish that one first."


class ModelControls:
    """Adding, by an upload or a path on the computer that the app runs on, and removing.

    state: the shared state. client: the worker's, which its owner polls. files: keeps uploads until they are added.
    tell(text): shows an error. changed(name): there are other models now; name: the one to choose, "" for any.
    """

    def __init__(
        self, state: Any, client: Any, files: PrivateFiles, tell: Callable[[str], None], changed: Callable[[str], None]
    ) -> None:
        self._state, self._files, self._tell, self._changed = state, files, tell, changed
        self._store = ModelStore(client, self.failed)
        self._upload: Path | None = None
        # What is being added: the upload, or a path on this computer.
        self._source = ""

    async def accept_upload(self, _role: str, path: Path) -> None:
        """Keeps an uploaded zip and asks the worker for its licence. Raises InputError while another one is added."""
        with self._state:
            if self._source:
                raise InputError(BUSY)
            self._upload = Path(shutil.move(path, self._files.new_folder() / path.name))
            self._read(str(self._upload), path.name)

    def add_from_disk(self, place: Any) -> None:
        """Asks the worker for the licence of the model at a path: a folder, a zip or a model.pt."""
        typed = place.strip() if isinstance(place, str) else ""
        if self._source:
            self._tell(BUSY)
        elif typed:
            self._read(typed, Path(typed).name)

    def _read(self, source: str, name: str) -> None:
        self._source = source
        self._state.error, self._state.segment_adding = "", name
        self._store.licence(source, self._show_licence)

    def accept(self) -> None:
        """The user has read the licence of the uploaded model, and accepts it."""
        if self._source and self._state.segment_new_licence:
            self._state.segment_new_licence = ""
            self._store.add(self._source, self._added)

    def decline(self) -> None:
        """The model is not added; its upload is forgotten."""
        upload, self._upload, self._source = self._upload, None, ""
        if upload is not None:
            shutil.rmtree(upload.parent, ignore_errors=True)
        self._state.segment_adding = self._state.segment_new_licence = ""

    def failed(self, message: str) -> None:
        """What the worker says when something went wrong."""
        folder = "" if self._upload is None else f"{self._upload.parent}/"
        self.decline()
        self._tell(message.replace(folder, "") if folder else message)

    def remove(self) -> None:
        """Takes the chosen model away, if it was added."""
        if can_remove(self._state.segment_model):
            self._store.remove(self._state.segment_model, lambda: self._changed(""))

    def _show_licence(self, text: str) -> None:
        self._state.segment_new_licence = text

    def _added(self, name: str) -> None:
        self.decline()
        self._state.segment_source = ""
        self._changed(name)


def can_remove(name: Any) -> bool:
    """Whether a model was added by the user."""
    try:
        card = find_model(str(name))
    except WeightsError:
        return False
    return card.folder.resolve().parent == own_models().resolve()
