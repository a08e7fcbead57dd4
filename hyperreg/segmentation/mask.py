"""The mask of everything that a model found: of a brain, what is left when skull and scalp are taken away."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from hyperreg.imaging import itk
from hyperreg.imaging.volume import Volume

# Gaps between structures up to twice this wide are closed: fluid in sulci, vessels.
CLOSED_MM = 3.0


def whole_mask(labels: Volume) -> Volume:
    """One connected mask without holes around all labels, on their grid: 0 and 1, uint8; empty for an empty map."""
    # What closing adds near the border of the image would otherwise be cut off.
    # In whole voxels; the sizes in headers are rounded, and 3 mm lie just between 1 and 2 voxels of 2 mm.
    radius = [max(1, round(CLOSED_MM / size + 1e-3)) for size in labels.spacing]
    image = sitk.ConstantPad(itk.volume_to_itk(Volume(labels.array > 0, labels.ijk_to_ras)), radius, radius, 0)
    closed = sitk.BinaryMorphologicalClosing(image, radius, sitk.sitkBall)
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(closed), sortByObjectSize=True)
    filled = sitk.Crop(sitk.BinaryFillhole(parts == 1), radius, radius)
    array = np.ascontiguousarray(sitk.GetArrayViewFromImage(filled).transpose(2, 1, 0)).astype(np.uint8)
    return Volume(array, labels.ijk_to_ras, "mask")
