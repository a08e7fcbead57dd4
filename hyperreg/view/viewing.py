"""What the user does with the views, whichever panel is shown: window and level, places, lines, 3D, fitting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import slicer

from hyperreg.view.reading import Mouse, Place
from hyperreg.view.state import PLANES

AUTOMATIC, FULL_RANGE = "auto", "full"
# Window and level in Hounsfield units, as radiologists set them.
CT_WINDOWS = {
    "brain": ("Brain (80/40)", 80, 40),
    "soft": ("Soft tissue (400/40)", 400, 40),
    "lung": ("Lung (1500/-600)", 1500, -600),
    "bone": ("Bone (2000/400)", 2000, 400),
}
# No other images than CT reach below this: it is nearly air.
CT_BELOW = -500


class ViewControls:
    """The toolbar over the views and the line below them, without their page.

    state: the shared state. views: the `SliceViews`. images(): the volume nodes that are open, by what the page calls
    them. deformed_mm(ras): how far a registration moves a place, None without one.
    """

    def __init__(
        self,
        state: Any,
        views: Any,
        images: Callable[[], Mapping[str, Any]],
        deformed_mm: Callable[[Any], float | None],
    ) -> None:
        self._state, self._views, self._images, self._deformed_mm = state, views, images, deformed_mm
        views.follow(Mouse(self._titles, self._over, views.jump))
        self.offer()

    def offer(self) -> None:
        """Offers the windows that the open images can have."""
        windows = {AUTOMATIC: "Automatic", FULL_RANGE: "Full range"}
        if any(looks_like_ct(node) for node in self._images().values()):
            windows |= {name: title for name, (title, _window, _level) in CT_WINDOWS.items()}
        self._state.windows = [{"title": title, "value": name} for name, title in windows.items()]

    def set_window(self, name: Any) -> None:
        """Sets window and level of the open images; Hounsfield units only of CT images."""
        for node in self._images().values():
            display = node.GetDisplayNode()
            if name == AUTOMATIC:
                display.SetAutoWindowLevel(True)
            elif name == FULL_RANGE:
                low, high = node.GetImageData().GetScalarRange()
                _set(display, high - low, (high + low) / 2)
            elif name in list(CT_WINDOWS) and looks_like_ct(node):
                _set(display, *CT_WINDOWS[name][1:])

    def set_lines(self, on: Any) -> None:
        self._views.set_lines(on is True)

    def set_3d(self, on: Any) -> None:
        self._views.set_3d(on is True)

    def set_second_plane(self, plane: Any) -> None:
        if plane in list(PLANES):
            self._views.set_second_plane(plane)

    def fit(self) -> None:
        """Shows the whole image again, without crosshair."""
        self._views.fit()
        self._views.hide_crosshair()

    def _titles(self) -> dict[str, str]:
        return {node.GetID(): title for title, node in self._images().items()}

    def _over(self, place: Place | None) -> None:
        if place is None:
            self._state.probe = ""
            return
        moved = self._deformed_mm(place.ras)
        self._state.probe = place.text if moved is None else f"{place.text} · Deformed by {moved:.1f} mm"


def looks_like_ct(node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether the values can only be Hounsfield units."""
    return node.GetImageData() is not None and node.GetImageData().GetScalarRange()[0] <= CT_BELOW


def _set(display: slicer.vtkMRMLScalarVolumeDisplayNode, window: float, level: float) -> None:
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(window, level)
