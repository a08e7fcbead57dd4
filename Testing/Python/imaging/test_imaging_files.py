"""Images to and from files: geometry and values survive, bad files are refused in plain words, nothing half-written
stays.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from imaging_examples import affine, oblique_grid, scene

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import output
from hyperreg.imaging.files import read_label_map, read_volume, write_volume
from hyperreg.imaging.segment_files import write_segmentation
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform, write_transform
from hyperreg.imaging.volume import Grid, Volume

ENDINGS = [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".mgz"]
SPACINGS = [(1.5, 2.0, 3.0), (0.3, 0.3, 0.3), (10.0, 10.0, 10.0)]


def _needs(ending: str) -> None:
    if ending == ".mgz":
        pytest.importorskip("nibabel")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip(tmp_path, ending, spacing):
    _needs(ending)
    volume = scene(oblique_grid(spacing=spacing))
    write_volume(volume, tmp_path / f"image{ending}")
    again = read_volume(tmp_path / f"image{ending}")
    assert again.name == "image"
    assert again.shape == volume.shape
    assert np.abs(again.grid.corners - volume.grid.corners).max() < 1e-3  # mm
    np.testing.assert_array_equal(again.array, volume.array)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_voxel_types_survive(tmp_path, ending, dtype):
    volume = Volume(scene(oblique_grid()).array.clip(0, 250).astype(dtype), oblique_grid().ijk_to_ras)
    write_volume(volume, tmp_path / f"image{ending}")
    again = read_volume(tmp_path / f"image{ending}")
    assert again.array.dtype == dtype
    np.testing.assert_array_equal(again.array, volume.array)


@pytest.mark.parametrize(
    "turn", [(0, (0, 0, 1)), (180, (1, 0, 0)), (180, (1, 1, 0)), (90, (0, 1, 0)), (120, (1, 1, 1)), (170, (3, 1, 2))]
)
@pytest.mark.parametrize("flip", [1, -1])
def test_nifti_quaternion_and_sform_agree(tmp_path, turn, flip):
    nibabel = pytest.importorskip("nibabel")
    matrix = affine(*turn, (5, -6, 7), (1.0, 2.0, 3.0 * flip))
    write_volume(scene(Grid((8, 9, 10), matrix)), tmp_path / "image.nii")
    header = nibabel.load(tmp_path / "image.nii").header
    np.testing.assert_allclose(header.get_sform(), matrix, atol=1e-5)
    np.testing.assert_allclose(header.get_qform(), matrix, atol=1e-5)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_simpleitk_sees_the_same_geometry(tmp_path, ending):
    volume = scene(oblique_grid())
    write_volume(volume, tmp_path / f"image{ending}")
    image = sitk.ReadImage(str(tmp_path / f"image{ending}"))
    for ijk in ((0, 0, 0), (23, 0, 5), (7, 19, 15)):
        lps = np.array(image.TransformIndexToPhysicalPoint(ijk))
        np.testing.assert_allclose(lps * (-1, -1, 1), volume.grid.to_ras(ijk), atol=1e-3)
        assert image.GetPixel(ijk) == volume.array[ijk]


def test_nibabel_sees_the_same_geometry_as_simpleitk(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = scene(oblique_grid())
    image = nibabel.Nifti1Image(volume.array, volume.ijk_to_ras)
    nibabel.save(image, tmp_path / "image.nii.gz")
    again = read_volume(tmp_path / "image.nii.gz")
    assert again.grid.matches(volume.grid)
    np.testing.assert_array_equal(again.array, volume.array)


def test_one_time_point_is_taken_as_3d(tmp_path):
    volume = scene(oblique_grid())
    image = sitk.JoinSeries([sitk.GetImageFromArray(volume.array)])
    sitk.WriteImage(image, str(tmp_path / "one.nrrd"))
    assert read_volume(tmp_path / "one.nrrd").array.shape == (16, 20, 24)
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(volume.array[..., None], volume.ijk_to_ras), tmp_path / "one.nii.gz")
    again = read_volume(tmp_path / "one.nii.gz")
    assert again.grid.matches(volume.grid)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mgz"])
def test_a_file_cut_in_the_middle_is_refused(tmp_path, ending):
    _needs(ending)
    path = tmp_path / f"image{ending}"
    noise = np.random.default_rng(0).normal(0, 1, (32, 32, 32)).astype(np.float32)
    write_volume(Volume(noise, oblique_grid().ijk_to_ras), path)
    whole = path.read_bytes()
    for share in (0.5, 0.98, 0.001):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(FileError, match=r"damaged|cut short"):
            read_volume(path)


def test_mhd_without_its_data_is_refused(tmp_path):
    write_volume(scene(oblique_grid()), tmp_path / "image.mhd")
    (data,) = (file for file in tmp_path.iterdir() if file.suffix != ".mhd")
    data.unlink()
    with pytest.raises(FileError, match="missing"):
        read_volume(tmp_path / "image.mhd")


def _two_d(folder):
    sitk.WriteImage(sitk.Image([20, 20], sitk.sitkInt16), str(folder / "x.mha"))
    return folder / "x.mha"


def _four_d(folder):
    sitk.WriteImage(sitk.JoinSeries([sitk.Image([8, 8, 8], sitk.sitkInt16)] * 5), str(folder / "x.nii.gz"))
    return folder / "x.nii.gz"


def _colour(folder):
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkVectorUInt8, 3), str(folder / "x.nrrd"))
    return folder / "x.nrrd"


def _colour_nifti(folder):
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkVectorUInt8, 3), str(folder / "x.nii.gz"))
    return folder / "x.nii.gz"


def _complex(folder):
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkComplexFloat32), str(folder / "x.nrrd"))
    return folder / "x.nrrd"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_two_d, "2D"),
        (_four_d, "5 volumes"),
        (_colour, "3 values per voxel"),
        (_colour_nifti, "colour"),
        (_complex, "complex"),
    ],
)
def test_other_than_3d_grey_values_is_refused(tmp_path, make, words):
    with pytest.raises(InputError, match=words):
        read_volume(make(tmp_path))


def _with_sform(path, matrix):
    """Overwrite the sform of an uncompressed NIfTI file."""
    raw = bytearray(path.read_bytes())
    raw[280:328] = np.asarray(matrix[:3], dtype="<f4").tobytes()
    path.write_bytes(raw)


@pytest.mark.parametrize("qform_code", [0, 1])
def test_a_sheared_nifti_is_refused_even_with_a_straight_qform(tmp_path, qform_code):
    path = tmp_path / "sheared.nii"
    grid = Grid((8, 8, 8), np.diag([1.0, 2.0, 3.0, 1.0]))
    write_volume(scene(grid), path)
    sheared = np.array(grid.ijk_to_ras)
    sheared[0, 1] = 0.3
    _with_sform(path, sheared)
    raw = bytearray(path.read_bytes())
    raw[252:254] = qform_code.to_bytes(2, "little")
    path.write_bytes(raw)
    with pytest.raises(InputError, match="right angles"):
        read_volume(path)


def test_a_sheared_nrrd_is_refused(tmp_path):
    image = sitk.Image([8, 8, 8], sitk.sitkInt16)
    image.SetDirection((1, 0.2, 0, 0, 1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "x.nrrd"))
    with pytest.raises(InputError, match="right angles"):
        read_volume(tmp_path / "x.nrrd")


def test_slight_shear_is_kept_by_nrrd_and_refused_by_nifti(tmp_path):
    matrix = np.eye(4)
    matrix[0, 1] = 0.003
    volume = scene(Grid((8, 8, 8), matrix))
    write_volume(volume, tmp_path / "x.nrrd")
    assert read_volume(tmp_path / "x.nrrd").grid.matches(volume.grid)
    with pytest.raises(InputError, match="nrrd"):
        write_volume(volume, tmp_path / "x.nii.gz")
    assert not (tmp_path / "x.nii.gz").exists()


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.nrrd", "x.mgz", "x.docx"])
def test_something_else_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is no image at all, whatever its name says" * 20)
    with pytest.raises(FileError, match=r"damaged|not an image"):
        read_volume(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileError, match="empty"):
        read_volume(tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises(FileError, match="does not exist"):
        read_volume(tmp_path / name)


def test_label_maps_are_integers(tmp_path):
    labels = np.digitize(scene(oblique_grid()).array, (200, 400)) * 300
    write_volume(Volume(labels.astype(np.float32), oblique_grid().ijk_to_ras), tmp_path / "labels.nii.gz")
    again = read_label_map(tmp_path / "labels.nii.gz")
    assert again.array.dtype.kind == "i"
    np.testing.assert_array_equal(again.array, labels)
    write_volume(scene(oblique_grid()), tmp_path / "image.nii.gz")
    with pytest.raises(InputError, match="not whole numbers"):
        read_label_map(tmp_path / "image.nii.gz")


def test_unknown_format_missing_folder_and_folder_as_file(tmp_path):
    volume = scene(oblique_grid())
    with pytest.raises(FileError, match=r"\.jpg"):
        write_volume(volume, tmp_path / "x.jpg")
    with pytest.raises(FileError, match="does not exist"):
        write_volume(volume, tmp_path / "missing" / "x.nrrd")
    (tmp_path / "x.nrrd").mkdir()
    with pytest.raises(FileError, match="is a folder"):
        write_volume(volume, tmp_path / "x.nrrd")


@pytest.mark.parametrize("ending", [".nii.gz", ".mgz", ".nrrd", ".mha", ".seg.nrrd", ".h5", ".tfm"])
def test_names_that_are_no_text_are_written_and_read_or_refused(tmp_path, ending):
    path = tmp_path / os.fsdecode(b"scan-\xff" + ending.encode())
    volume = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    write, read = {
        ".h5": (write_transform, read_transform),
        ".tfm": (write_transform, read_transform),
        ".seg.nrrd": (lambda labels, at: write_segmentation(labels, [], at), read_volume),
    }.get(ending, (write_volume, read_volume))
    what = Transform((np.diag([2.0, 1, 1, 1]),)) if write is write_transform else volume
    if ending in (".nii.gz", ".mgz"):
        write(what, path)
        np.testing.assert_array_equal(read(path).array, volume.array)
        return
    with pytest.raises(FileError, match="no text"):
        write(what, path)
    assert os.listdir(tmp_path) == []
    write(what, tmp_path / f"scan{ending}")
    (tmp_path / f"scan{ending}").rename(path)
    with pytest.raises(FileError, match="no text"):
        read(path)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_full_disk_is_noticed_before_writing(tmp_path, monkeypatch, ending):
    volume = scene(oblique_grid())
    path = tmp_path / f"x{ending}"
    path.write_bytes(b"older result")
    monkeypatch.setattr(output.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(FileError, match="disk is full"):
        write_volume(volume, path)
    assert path.read_bytes() == b"older result"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits on file sizes")
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_disk_that_fills_up_while_writing_leaves_nothing_behind(tmp_path, ending):
    code = """
import resource, signal, sys
import numpy as np
from hyperreg.errors import FileError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Volume
volume = Volume(np.random.default_rng(0).normal(size=(48, 48, 48)).astype("f4"), np.eye(4))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_volume(volume, sys.argv[1])
except FileError as error:
    print("refused:", "disk" in str(error))
"""
    path = tmp_path / f"x{ending}"
    path.write_bytes(b"older result")
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "refused: True"
    assert path.read_bytes() == b"older result"
    assert os.listdir(tmp_path) == [path.name]


def test_a_read_only_folder_is_named_in_the_message(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(output.tempfile, "mkdtemp", refuse)
    with pytest.raises(FileError, match="read-only"):
        write_volume(scene(oblique_grid()), tmp_path / "x.nii.gz")


def test_every_real_image_is_read_or_refused_in_words(real_data):
    files = (
        sorted(real_data.glob("lung/*.mha"))
        + sorted(real_data.glob("spine/*.nii.gz"))
        + sorted(real_data.glob("two_d/*.mha"))
    )
    shapes, refused = {}, {}
    for path in files:
        try:
            shapes[path.name] = read_volume(path).shape
        except InputError as error:
            refused[path.name] = str(error)
    assert shapes["3DCT_lung_baseline.mha"] == (115, 157, 129)
    assert len(shapes) == len(files) - 4
    assert len(refused) == 4 and all(name.startswith("CT_2D") and "2D" in text for name, text in refused.items())
