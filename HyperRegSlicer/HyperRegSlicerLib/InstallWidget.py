"""The section that installs what is missing, in both modules. Qt only; how it is installed is in Install."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ctk
from slicer.i18n import tr as _

from HyperRegSlicerLib import Install


class InstallPanel:
    """Labels, buttons and folder of the section.

    ui: the form's widgets. guarded(action): the action as a slot whose errors the user sees. on_message(text).
    elsewhere(): whether another computer computes.
    """

    def __init__(
        self,
        ui: Any,
        guarded: Callable[[Callable[[], Any]], Callable[[], None]],
        on_message: Callable[[str], None],
        elsewhere: Callable[[], bool],
    ) -> None:
        self.ui = ui
        self._elsewhere = elsewhere
        self._on_message = on_message
        ui.wheelFolderEdit.filters = ctk.ctkPathLineEdit.Dirs
        for button, install in (
            ("installButton", Install.install_from_internet),
            ("installFolderButton", lambda: Install.install_from_folder(ui.wheelFolderEdit.currentPath)),
        ):
            getattr(ui, button).connect("clicked()", guarded(lambda install=install: self._install(install)))

    def is_ready(self) -> bool:
        """Whether everything is there, or not needed here; if not, opens the section and says so."""
        if self._elsewhere() or not Install.missing():
            return True
        self.ui.setupSection.collapsed = False
        self._on_message(_("Something that is needed is not installed yet. See the section below."))
        return False

    def update(self) -> None:
        """Shows what is missing."""
        needed = ", ".join(requirement.package for requirement in Install.missing())
        self.ui.installLabel.text = (
            _("Not installed: {names}.").format(names=needed)
            if needed
            else _("Everything that is needed is installed.")
        )
        for widget in (self.ui.installButton, self.ui.installFolderButton):
            widget.enabled = bool(needed)
        self.ui.offlineLabel.text = (
            _("On a computer with internet and the same system:\n{command}").format(command=Install.offline_command())
            if needed
            else ""
        )

    def _install(self, install: Callable[[], bool]) -> None:
        try:
            if install():
                self._on_message(_("Everything that is needed is installed."))
        finally:
            self.update()
