"""The segments of a result as one label map on all voxels of its image, however Slicer holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from hyperreg.errors import InputError
from hyperreg.mrml import geometry
from hyperreg.mrml.i18n import tr as _

BINARY, SURFACE = "Binary labelmap", "Closed surface"
Box = tuple[slice, slice, slice]
# In label maps of either type, what belongs to a segment that no model made.
OTHER = {np.dtype(kind): np.iinfo(kind).max for kind in (np.uint8, np.uint16)}

Labels = npt.NDArray[Any]


def segment_id(label: int | str) -> str:
    """How the segment with a label value is called, here as in .seg.nrrd files."""
    return f"Segment_{label}"


def image_of(labels: Labels, ijk_to_ras: vtk.vtkMatrix4x4) -> slicer.vtkOrientedImageData:
    """A label map (I, J, K) as segments hold it; copied."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*labels.shape)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(labels.T).reshape(-1), deep=True))
    image.SetGeometryFromImageToWorldMatrix(ijk_to_ras)
    return image


class Layer:
    """The segments that a model made, as one label map: (voxels,), of the image (I, J, K) with the first axis fastest.

    Slicer holds them in one image, as `results.fill_segmentation` leaves them. Edits may give some of them images of
    their own, cut to what is drawn there, and put other segments into the same image, which are OTHER here.
    node: a segmentation just filled. labels: of its structures.
    """

    def __init__(self, node: slicer.vtkMRMLSegmentationNode, labels: Sequence[int]) -> None:
        self.node, self._labels = node, tuple(labels)
        image = next(iter(self._images()))
        self._shape: tuple[int, ...] = image.GetDimensions()
        self._place = _place(image)
        self._surfaces: dict[str, Any] = {}
        self._type = np.dtype(np.uint8 if max(labels) < OTHER[np.dtype(np.uint8)] else np.uint16)

    def read(self) -> Labels:
        """A copy of the label map. Raises InputError once segments overlap or lie on other voxels."""
        whole = np.zeros(math.prod(self._shape), dtype=self._type)
        for image, segments in self._images().items():
            values, there = _values(image), whole.reshape(self._shape, order="F")[self._box(image)]
            code = np.full(int(values.max(initial=0)) + 1, OTHER[self._type], dtype=self._type)
            code[0] = 0
            for label, segment in segments.items():
                if segment.GetLabelValue() < len(code):
                    code[segment.GetLabelValue()] = label
            found = code[values]
            if np.any((found != 0) & (there != 0)):
                raise _rearranged()
            there[...] = np.where(found, found, there)
        return whole

    def write(self, whole: Labels, voxels: npt.NDArray[np.intp]) -> None:
        """Replaces the label map, which differs only in some voxels. Raises InputError like `read`.

        Told of a change, a segmentation drops the surfaces of all segments, those that did not change as well: they are
        held for `take_surfaces`. To give them back at every move would take seconds in a window.
        """
        segmentation = self.node.GetSegmentation()
        everyone = [segmentation.GetNthSegment(n) for n in range(segmentation.GetNumberOfSegments())]
        for index, segment in enumerate(everyone):
            if (surface := segment.GetRepresentation(SURFACE)) is not None:
                self._surfaces[segmentation.GetNthSegmentID(index)] = surface
        for image, segments in self._images().items():
            scalars = self._whole(image, everyone).GetPointData().GetScalars()
            values = vtk_to_numpy(scalars)
            code = np.zeros(int(OTHER[self._type]) + 1, dtype=values.dtype)
            code[list(segments)] = [segment.GetLabelValue() for segment in segments.values()]
            # What is of others in this image stays.
            ours = voxels[np.isin(values[voxels], [0, *(segment.GetLabelValue() for segment in segments.values())])]
            values[ours] = code[whole[ours]]
            scalars.Modified()
            segment = next(iter(segments.values()))
            segment.GetRepresentation(BINARY).Modified()

    def take_surfaces(self) -> dict[str, Any]:
        """The surfaces that `write` has cost since the last call, by segment."""
        found, self._surfaces = self._surfaces, {}
        return found

    def _images(self) -> dict[slicer.vtkOrientedImageData, dict[int, slicer.vtkSegment]]:
        """The images that hold the segments, those that were deleted aside: the segments in each, by their labels."""
        found: dict[slicer.vtkOrientedImageData, dict[int, slicer.vtkSegment]] = {}
        for label in self._labels:
            segment = self.node.GetSegmentation().GetSegment(segment_id(label))
            if segment is not None:
                found.setdefault(segment.GetRepresentation(BINARY), {})[label] = segment
        if not found or None in found:
            raise _rearranged()
        return found

    def _box(self, image: slicer.vtkOrientedImageData) -> Box:
        """Where an image lies on the result's voxels. Raises InputError if it does not."""
        if image.GetNumberOfPoints() == 0:
            return slice(0), slice(0), slice(0)
        extent = np.array(image.GetExtent()).reshape(3, 2)
        inside = (extent[:, 0] >= 0).all() and (extent[:, 1] < self._shape).all()
        if not inside or not np.allclose(_place(image), self._place, atol=1e-6):
            raise _rearranged()
        i, j, k = (slice(int(first), int(last) + 1) for first, last in extent)
        return i, j, k

    def _whole(
        self, image: slicer.vtkOrientedImageData, everyone: Sequence[slicer.vtkSegment]
    ) -> slicer.vtkOrientedImageData:
        """The image, or one on all voxels in its place, in all segments that have it."""
        box = self._box(image)
        if image.GetDimensions() == self._shape:
            return image
        values = np.zeros(self._shape, dtype=_values(image).dtype)
        values[box] = _values(image)
        full = image_of(values, geometry.to_vtk(self._place))
        for segment in everyone:
            if segment.GetRepresentation(BINARY) is image:
                segment.AddRepresentation(BINARY, full)
        return full


def _values(image: slicer.vtkOrientedImageData) -> Labels:
    """(I, J, K): a view."""
    if image.GetNumberOfPoints() == 0:
        return np.zeros((0, 0, 0), dtype=np.uint8)
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]).T


def _place(image: slicer.vtkOrientedImageData) -> npt.NDArray[np.float64]:
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return geometry.to_numpy(matrix)


def _rearranged() -> InputError:
    return InputError(
        _("Segments overlap since they were edited, or lie on other voxels. Segment again to move borders.")
    )
