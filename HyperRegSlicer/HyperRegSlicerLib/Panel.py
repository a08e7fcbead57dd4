"""What the panels of both modules have in common: binding to a parameter node, errors in words, the worker's news."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import qt
import vtk
from slicer.i18n import tr as _

from hyperreg.errors import HyperRegError
from hyperreg.mrml.registration.texts import cpu_text, gpu_text
from HyperRegSlicerLib import Forms
from HyperRegSlicerLib.Parameters import Device

# How often the worker is asked for news: below what the eye notices, above what costs anything.
POLL_INTERVAL_MS = 10
# Of the user, not of a scene: which other computer is to compute.
COMPUTER_SETTING = "HyperReg/Computer"


class Panel:
    """The base of one module widget's panel.

    ui: the form's widgets by name, as `slicer.util.childWidgetVariables` gives them; it has messageLabel, deviceCombo,
        computerEdit, computerNoteLabel.
    connection: a `Worker.Connection` or a stand-in.
    """

    def __init__(self, ui: Any, connection: Any) -> None:
        self.ui = ui
        self.connection = connection
        self.parameters: Any = None
        self._gui_tag: int | None = None
        self._observer: int | None = None
        self._devices: Sequence[Mapping[str, Any]] = ()
        self._computer = connection.computer(self._show_computer)
        self._show_computer("")
        ui.computerEdit.connect("editingFinished()", self._guarded(self._choose_computer))
        # How many calls ask to wait with showing the state, and whether there is something to show then.
        self._held = 0
        self._stale = False
        # Loading a scene adds many nodes: looked at once, when that is over.
        self._soon = Forms.rest_timer(0, self._told(self._scene_changed))
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_INTERVAL_MS)
        self._timer.connect("timeout()", self._told(self._poll))

    def update(self) -> None:
        """Shows the state: what can be pressed and what is going on."""
        self._stale = self._held > 0
        if not self._stale:
            self._show_state()

    def _show_state(self) -> None:
        """The state in the form; called by `update`."""
        raise NotImplementedError

    @contextlib.contextmanager
    def _one_update(self) -> Iterator[None]:
        """Shows the state once at the end, however many times that is asked for meanwhile."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._stale:
                self.update()

    def _poll(self) -> None:
        """Delivers what the worker has sent."""
        with self._one_update():
            self.connection.poll()

    def _parameters_changed(self, *_event: Any) -> None:
        """What the parameter node says, to form and logic."""
        raise NotImplementedError

    def _bind(self) -> None:
        """Keeps form and parameter node in step."""
        self._gui_tag = self.parameters.connectGui(self.ui)
        self._observer = self.parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, self._told(self._parameters_changed))
        self._name_devices()
        # The other module's panel may have chosen another one since.
        self.ui.computerEdit.text = qt.QSettings().value(COMPUTER_SETTING, "")
        self._choose_computer()

    def release_parameters(self) -> None:
        """Unbinds the form, when the module is left or the scene closes."""
        if self.parameters is None:
            return
        self.parameters.disconnectGui(self._gui_tag)
        self.parameters.RemoveObserver(self._observer)
        self.parameters = None

    def _guarded(self, action: Callable[[], Any]) -> Callable[[], None]:
        """The action as a slot: what it raises for the user is shown in the panel."""

        def slot() -> None:
            self._show_message("")
            self._timer.start()  # whatever it is, the worker may have to answer
            with self._one_update():
                self._try(action)
                self.update()

        return slot

    def _told(self, slot: Callable[..., Any]) -> Callable[..., None]:
        """The function as a slot or observer: what it raises is shown in the panel."""

        def called(*values: Any) -> None:
            self._try(lambda: slot(*values))

        return called

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except HyperRegError as error:
            self._show_message(str(error))
        except Exception as error:
            # Qt only prints what a slot raises: the user would see nothing, and wait.
            self._show_message(
                _("Something went wrong that should not have: {error}. The Python console has the details.").format(
                    error=f"{type(error).__name__}: {error}"
                )
            )
            raise

    def nodes_changed(self) -> None:
        """The scene has other nodes."""
        self._soon.start()

    def _scene_changed(self) -> None:
        if self.parameters is not None:
            self.update()

    def _show_message(self, text: str) -> None:
        self.ui.messageLabel.text = text
        self.ui.messageLabel.visible = bool(text)

    def _choose_computer(self) -> None:
        address = self.ui.computerEdit.text.strip()
        qt.QSettings().setValue(COMPUTER_SETTING, address)
        if address != self._computer.address:
            self._timer.start()
            self._devices = ()
            self._computer.choose(address)

    def _computes_elsewhere(self) -> bool:
        return bool(self._computer.address)

    def _show_computer(self, text: str) -> None:
        self.ui.computerNoteLabel.text = text
        self.ui.computerNoteLabel.visible = bool(text)

    def _ask_devices(self) -> None:
        """Asks the worker, which runs now, what it can compute on: the list of devices then says so."""
        self.connection.ask_devices(self._devices_known)

    def _devices_known(self, devices: Sequence[Mapping[str, Any]]) -> None:
        self._devices = devices
        self._name_devices()

    def _name_devices(self) -> None:
        if self._devices:
            order = list(Device)
            self.ui.deviceCombo.setItemText(order.index(Device.GPU), gpu_text(self._devices))
            self.ui.deviceCombo.setItemText(order.index(Device.CPU), cpu_text(self._devices))
