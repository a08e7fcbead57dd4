"""What is read off the slice views: which slice, how large, and what lies under the mouse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Of the scale bar, mm; the longest that takes at most this share of the view's width.
LENGTHS_MM = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
LONGEST = 0.25
# Of a place that no voxel covers.
OUTSIDE, NO_NUMBER = "outside", "nan"
# The patient's sides towards which R, A and S count, and the other ones.
SIDES = (("R", "L"), ("A", "P"), ("S", "I"))


@dataclass(frozen=True)
class Place:
    """What lies under the mouse. ras: (3,), mm, in the fixed image's space. values: of each image, in words."""

    ras: npt.NDArray[np.float64]
    values: tuple[str, ...]

    @property
    def text(self) -> str:
        """For the user, such as "R 12.3  A 4.0  S 30.1 mm · Fixed 123 · Moving outside"."""
        return " · ".join((f"{'  '.join(side(n, value) for n, value in enumerate(self.ras))} mm", *self.values))


def side(axis: int, value: float) -> str:
    """A coordinate as radiologists say it: the patient's side, and mm without a sign."""
    value = round(float(value), 1)
    return f"{SIDES[axis][0 if value >= 0 else 1]} {abs(value):.1f}"


def place_at(view: Any, xy: tuple[int, int], titles: Mapping[str, str]) -> Place:
    """What a slice view shows at a pixel, counted from the lower left. titles: of volumes by the ids of their nodes."""
    ras = np.array(view.get_view_node().GetXYToRAS().MultiplyPoint((*map(float, xy), 0.0, 1.0))[:3])
    values, seen = [], set()
    for layer in (view.slice_logic.GetBackgroundLayer(), view.slice_logic.GetForegroundLayer()):
        node = layer.GetVolumeNode()
        if node is None or node.GetID() in seen:
            continue
        seen.add(node.GetID())
        # The layer's own map: through the live transform, deformation and all.
        ijk = layer.GetXYToIJKTransform().TransformPoint(*map(float, xy), 0.0)
        values.append(f"{titles.get(node.GetID(), node.GetName())} {voxel(node.GetImageData(), ijk)}")
    if (change := _volume_change(view.slice_logic.GetLabelLayer(), xy)) is not None:
        values.append(f"Volume {change:+.0f} %")
    return Place(ras, tuple(values))


def _volume_change(layer: Any, xy: tuple[int, int]) -> float | None:
    """What a map over the images, in the place of a label map, says at a pixel; None without one there."""
    node = layer.GetVolumeNode()
    if node is None or node.IsA("vtkMRMLLabelMapVolumeNode"):
        return None
    text = voxel(node.GetImageData(), layer.GetXYToIJKTransform().TransformPoint(*map(float, xy), 0.0))
    return None if text in (OUTSIDE, NO_NUMBER) else float(text)  # the air has none


def voxel(image: Any, ijk: tuple[float, float, float]) -> str:
    """The value of the voxel at continuous indices, in words."""
    index = [int(np.floor(part + 0.5)) for part in ijk]
    if image is None or any(not 0 <= part < n for part, n in zip(index, image.GetDimensions(), strict=True)):
        return OUTSIDE
    value = image.GetScalarComponentAsDouble(*index, 0)
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"


def slice_text(view: Any, axis: int) -> str:
    """Which slice a view shows, such as "45 of 109 · S 12.0 mm". axis: across the view, 0 to 2 for R, A, S."""
    low, high = view.get_slice_range()
    step = view.get_slice_step()
    # The range is from the middle of the first slice to that of the last one.
    count, at = (round((end - low) / step) + 1 if step > 0 else 1 for end in (high, view.get_slice_value()))
    number = min(count, max(1, at))
    return f"{number} of {count} · {side(axis, view.get_view_node().GetSliceToRAS().GetElement(axis, 3))} mm"


def scale_bar(view: Any) -> dict[str, Any]:
    """How long the bar is: percent of the view's width, and in mm."""
    across = view.get_view_node().GetFieldOfView()[0]
    fitting = [length for length in LENGTHS_MM if length <= LONGEST * across]
    length = fitting[-1] if fitting else LENGTHS_MM[0]
    return {"percent": round(100 * length / across, 2), "text": f"{length:g} mm"}


class Mouse:
    """Follows the mouse over slice views.

    over(place): what lies under it, None where it has left. jump(ras): asked for with Shift, or by a double click.
    """

    def __init__(
        self, titles: Callable[[], Mapping[str, str]], over: Callable[[Place | None], None], jump: Callable[[Any], None]
    ) -> None:
        self._titles, self._over, self._jump = titles, over, jump

    def follow(self, view: Any) -> None:
        """Listens to one view."""
        interactor = view.interactor()

        def place() -> Place:
            return place_at(view, interactor.GetEventPosition(), self._titles())

        def moved(*_event: Any) -> None:
            found = place()
            self._over(found)
            if interactor.GetShiftKey():
                self._jump(found.ras)

        interactor.AddObserver("MouseMoveEvent", moved, 1.0)
        interactor.AddObserver("LeftButtonDoubleClickEvent", lambda *_event: self._jump(place().ras), 1.0)
        interactor.AddObserver("LeaveEvent", lambda *_event: self._over(None), 1.0)
