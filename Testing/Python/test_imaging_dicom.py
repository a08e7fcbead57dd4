"""DICOM series: geometry of an oblique series in mm, and series that are no volume."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from imaging_examples import rotation

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.files import read_volume

SHAPE, SPACING, ORIGIN = (20, 16, 12), np.array([0.8, 0.8, 2.5]), np.array([-40.0, 25.0, 310.0])
DIRECTION = rotation(20, (1, 2, 0))


def _values() -> np.ndarray:
    i, j, k = np.indices(SHAPE)
    return (10 * i + 3 * j + 100 * k).astype(np.int16)


def _write(folder, *, uid="1.2.826.0.1.3680043.2.1125.1", skip=(), shift=(0.0, 0.0, 0.0), repeat=1, prefix="slice"):
    """Slices of an oblique series (LPS). shift: extra mm per slice. repeat: images per place."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    number = 0
    for k in range(SHAPE[2]):
        if k in skip:
            continue
        for _ in range(repeat):
            image = sitk.GetImageFromArray(np.ascontiguousarray(_values()[:, :, k].T)[None])
            position = ORIGIN + DIRECTION[:, 2] * SPACING[2] * k + np.array(shift) * k
            image.SetSpacing(SPACING.tolist())
            image.SetOrigin(position.tolist())
            image.SetDirection(DIRECTION.ravel().tolist())
            tags = {
                "0008|0060": "CT",
                "0008|103e": f"series {prefix}",
                "0020|000e": uid,
                "0020|000d": "1.2.826.0.1.3680043.2.1125",
                "0008|0018": f"{uid}.{number + 1}",
                "0020|0013": str(number + 1),
                "0020|0032": "\\".join(f"{x:.6f}" for x in position),
                "0020|0037": "\\".join(f"{x:.9f}" for x in DIRECTION[:, :2].T.ravel()),
                "0018|0050": "2.5",
            }
            for key, value in tags.items():
                image.SetMetaData(key, value)
            writer.SetFileName(str(folder / f"{prefix}{number:03d}.dcm"))
            writer.Execute(image)
            number += 1


def _check(volume):
    assert volume.shape == SHAPE
    np.testing.assert_array_equal(volume.array, _values())
    for ijk in ((0, 0, 0), (19, 0, 0), (0, 15, 0), (3, 4, 11)):
        lps = ORIGIN + DIRECTION @ (SPACING * ijk)
        np.testing.assert_allclose(volume.grid.to_ras(ijk), lps * (-1, -1, 1), atol=1e-3)


def test_a_series_folder(tmp_path):
    _write(tmp_path / "series")
    (tmp_path / "series" / "readme.txt").write_text("not an image")
    volume = read_volume(tmp_path / "series")
    _check(volume)
    assert volume.name == "series"


def test_one_file_stands_for_its_series_among_several(tmp_path):
    _write(tmp_path)
    _write(tmp_path, uid="1.2.826.0.1.3680043.2.1125.2", prefix="other", skip=(0, 1, 2))
    _check(read_volume(tmp_path / "slice004.dcm"))
    with pytest.raises(InputError, match=r"2 DICOM series.*one file of the series"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"skip": (5,)}, "missing or unevenly spaced"),
        ({"shift": (0.3, 0.0, 0.0)}, "tilted gantry"),
        ({"repeat": 2}, "same place"),
    ],
)
def test_series_that_are_no_volume(tmp_path, how, words):
    _write(tmp_path / "series", **how)
    with pytest.raises(InputError, match=words):
        read_volume(tmp_path / "series")


def test_a_folder_without_dicom(tmp_path):
    with pytest.raises(FileError, match="no DICOM"):
        read_volume(tmp_path)


def test_a_cut_slice(tmp_path):
    _write(tmp_path / "series")
    path = tmp_path / "series" / "slice006.dcm"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises((FileError, InputError), match=r"damaged|missing"):
        read_volume(tmp_path / "series")
