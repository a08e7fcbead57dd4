"""The colours of regions: as different as can be, and drawn for those that have a λ of their own."""

from __future__ import annotations

import colorsys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import slicer

from hyperreg.mrml import nodes

# Of the circle of hues: neighbours in the list are far apart, and no two of a list are the same.
GOLDEN = 0.381966
# A colour table has a row for every value up to the largest label.
LARGEST_LABEL = 1 << 16


def colour_of(place: int) -> tuple[float, float, float]:
    """The colour of the region at this place in the list, red, green, blue, 0 to 1."""
    return colorsys.hsv_to_rgb((0.08 + GOLDEN * place) % 1.0, 0.65, 1.0)


def give_colours(node: slicer.vtkMRMLLabelMapVolumeNode, labels: Sequence[int], names: Mapping[int, str]) -> Any:
    """Makes the colour table of a label map: names and colours of its labels, all of them out of sight at first.

    names: of labels, as far as they are known. Returns the table; None for labels that no table can hold.
    """
    if not labels or max(labels) > LARGEST_LABEL:
        return None
    colours = dict.fromkeys(range(max(labels) + 1), ("", 0.0, 0.0, 0.0, 0.0))
    for place, label in enumerate(labels):
        colours[label] = (names.get(label, f"Label {label}"), *colour_of(place), 0.0)
    table = nodes.add_colour_table(node.GetScene(), f"{node.GetName()} regions", colours)
    node.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
    return table


def draw_only(table: Any, labels: Collection[int]) -> None:
    """Lets the outlines of these labels be seen, and no others."""
    if table is None:
        return
    modifying = table.StartModify()
    for value in range(table.GetNumberOfColors()):
        table.SetOpacity(value, 1.0 if value in labels else 0.0)
    table.EndModify(modifying)
