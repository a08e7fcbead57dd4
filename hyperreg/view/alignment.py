"""Alignment only: a linear transform without a deformation, shown, undone, and written for download."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from hyperreg.errors import HyperRegError
from hyperreg.imaging.transform import Transform
from hyperreg.mrml import geometry
from hyperreg.mrml.registration.logic import RegistrationLogic
from hyperreg.mrml.registration.texts import ALIGNMENT_TITLES
from hyperreg.view import choices, results
from hyperreg.view.pair import OpenPair
from hyperreg.view.private_files import PrivateFiles


class AlignmentControls:
    """The controller's part for a linear alignment alone.

    state: the shared state. logic: the `RegistrationLogic`. tell(text): an error.
    """

    def __init__(
        self,
        state: Any,
        logic: RegistrationLogic,
        pair: OpenPair,
        files: PrivateFiles,
        tell: Callable[[str], None],
    ) -> None:
        self._state, self._logic, self._pair, self._files = state, logic, pair, files
        self._tell = tell

    def start(self) -> None:
        """Aligns by the method that is chosen in the settings."""
        state = self._state
        try:
            choices.check(state)
            nodes = self._pair.nodes
            self._logic.align(nodes.get("fixed"), nodes.get("moving"), method=state.alignment, device=state.device)
        except HyperRegError as error:
            self._tell(str(error))

    def update(self) -> None:
        """Shows whether the moving image is aligned."""
        node = self._logic.alignment_node
        method = node.GetAttribute("HyperReg.alignment") if node is not None else ""
        self._state.aligned = ALIGNMENT_TITLES.get(method, method).partition(" (")[0]

    def undo(self) -> None:
        """Puts the moving image back where it was."""
        if self._logic.alignment_node is not None:
            self._logic.reset()
            self._logic.forget_reset()  # this is an undo already, and aligning again takes seconds

    async def save(self) -> None:
        """Writes the aligned image and the transform for download."""
        state, node, volumes = self._state, self._logic.alignment_node, self._pair.volumes
        if node is None or state.saving:
            return
        fixed, moving = volumes["fixed"], volumes["moving"]
        matrix = geometry.to_numpy(node.GetMatrixTransformToParent())
        # The node maps the file's own space onto the fixed image: its inverse is what resampling needs.
        transform = Transform((np.asarray(np.linalg.inv(matrix), dtype=np.float64),))
        with state:
            state.saving = True
        try:
            folder, loop = self._files.new_folder(), asyncio.get_running_loop()
            written = await loop.run_in_executor(None, results.write_alignment, fixed, moving, transform, folder)
            with state:
                if self._logic.alignment_node is node:
                    state.downloads = self._files.offer(written)
                    state.downloads_title = f"{moving.name} on {fixed.name}, {state.aligned.lower()} alignment only"
        except HyperRegError as error:
            with state:
                self._tell(str(error))
        finally:
            with state:
                state.saving = False
