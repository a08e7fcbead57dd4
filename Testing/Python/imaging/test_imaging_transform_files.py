"""Transform files: every format leads points to the same place, here and in ITK; bad files are refused in words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from imaging_examples import affine, oblique_grid, points_inside, smooth_field

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import guarded
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform, write_transform

LINEAR = affine(20, (0, 1, 1), (12.0, -7.0, 30.0), (1.1, 0.9, 1.05))
FLIP = np.array([-1.0, -1.0, 1.0])
CHAIN = [".h5", ".tfm", ".txt"]
FIELD = [".nii", ".nii.gz", ".nrrd", ".mha"]


@pytest.fixture(scope="module")
def transform():
    return Transform((smooth_field(oblique_grid()), LINEAR))


@pytest.mark.parametrize("ending", CHAIN + FIELD)
def test_round_trip(tmp_path, transform, ending):
    grid = oblique_grid()
    write_transform(transform, tmp_path / f"t{ending}", grid)
    again = read_transform(tmp_path / f"t{ending}")
    # Away from voxel centres a dense field of the whole chain is the same only up to float32.
    points = points_inside(grid)
    np.testing.assert_allclose(again.apply(points), transform.apply(points), atol=2e-3)
    assert np.abs(transform.apply(points) - points).max() > 10
    assert len(again.stages) == (2 if ending in CHAIN else 1)
    assert os.listdir(tmp_path) == [f"t{ending}"]


@pytest.mark.parametrize("ending", CHAIN)
def test_a_linear_transform_stays_exact_and_linear(tmp_path, ending):
    write_transform(Transform((LINEAR,)), tmp_path / f"t{ending}")
    assert sitk.ReadTransform(str(tmp_path / f"t{ending}")).GetName() == "AffineTransform"
    np.testing.assert_allclose(read_transform(tmp_path / f"t{ending}").linear, LINEAR, atol=1e-12)


def test_the_inverse_chain_keeps_its_order(tmp_path, transform):
    inverse = Transform((np.linalg.inv(LINEAR), smooth_field(oblique_grid(), 2.0)))
    write_transform(inverse, tmp_path / "i.h5")
    points = Transform((LINEAR,)).apply(points_inside(oblique_grid()))
    np.testing.assert_allclose(read_transform(tmp_path / "i.h5").apply(points), inverse.apply(points), atol=1e-4)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_field_is_5d_intent_1006_in_ras(tmp_path, transform, ending):
    nibabel = pytest.importorskip("nibabel")
    grid = oblique_grid()
    write_transform(transform, tmp_path / f"f{ending}", grid)
    image = nibabel.load(tmp_path / f"f{ending}")
    assert image.shape == (*grid.shape, 1, 3)
    assert int(image.header["intent_code"]) == 1006
    np.testing.assert_allclose(image.affine, grid.ijk_to_ras, atol=1e-4)
    expected = transform.apply(grid.to_ras([[3, 4, 5]])) - grid.to_ras([[3, 4, 5]])
    np.testing.assert_allclose(image.get_fdata()[3, 4, 5, 0], expected[0], atol=1e-3)


@pytest.mark.parametrize("ending", FIELD)
def test_simpleitk_reads_every_field_as_lps(tmp_path, transform, ending):
    grid = oblique_grid()
    write_transform(transform, tmp_path / f"f{ending}", grid)
    image = sitk.ReadImage(str(tmp_path / f"f{ending}"))
    expected = (transform.apply(grid.to_ras([[3, 4, 5]])) - grid.to_ras([[3, 4, 5]]))[0] * FLIP
    np.testing.assert_allclose(image.GetPixel(3, 4, 5), expected, atol=1e-3)
    if ending == ".nrrd":
        assert image.GetMetaData("intent_code") == "1006"


def test_slicer_reads_every_file_as_the_transform_from_parent(tmp_path, transform):
    slicer = pytest.importorskip("slicer")
    vtk = pytest.importorskip("vtk")
    grid = oblique_grid()
    scene = slicer.vtkMRMLScene()
    point = grid.to_ras([[11, 9, 7]])
    expected = transform.apply(point)[0]
    for ending in [".h5", ".tfm", *FIELD[:3]]:
        path = tmp_path / f"t{ending}"
        write_transform(transform, path, grid)
        node, storage = slicer.vtkMRMLTransformNode(), slicer.vtkMRMLTransformStorageNode()
        scene.AddNode(node)
        scene.AddNode(storage)
        storage.SetFileName(str(path))
        assert storage.ReadData(node) == 1, ending
        # Slicer resamples a node's content through its transform from parent: the pull-back map.
        pull = vtk.vtkGeneralTransform()
        node.GetTransformFromWorld(pull)
        np.testing.assert_allclose(pull.TransformPoint(point[0].tolist()), expected, atol=2e-3, err_msg=ending)


def test_ants_style_field_without_the_intent_is_lps(tmp_path):
    field = np.zeros((6, 7, 8, 3), np.float32)
    field[...] = (1, 2, 3)
    image = sitk.GetImageFromArray(field, isVector=True)
    sitk.WriteImage(image, str(tmp_path / "warp.nii.gz"))
    moved = read_transform(tmp_path / "warp.nii.gz").apply([[-3.0, -3.0, 3.0]])
    np.testing.assert_allclose(moved, [[-4.0, -5.0, 6.0]], atol=1e-5)


@pytest.mark.parametrize("ending", [".h5", ".tfm", ".mat"])
def test_linear_files_of_other_tools(tmp_path, ending):
    other = sitk.Euler3DTransform((5.0, -3.0, 8.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0))
    affine_of_it = sitk.AffineTransform(other.GetMatrix(), other.GetTranslation(), other.GetCenter())
    sitk.WriteTransform(affine_of_it if ending == ".mat" else other, str(tmp_path / f"t{ending}"))
    points = points_inside(oblique_grid(), 20)
    by_itk = np.array([other.TransformPoint((p * FLIP).tolist()) for p in points]) * FLIP
    np.testing.assert_allclose(read_transform(tmp_path / f"t{ending}").apply(points), by_itk, atol=1e-6)


def test_the_initial_transform_is_the_linear_part(tmp_path, transform):
    write_transform(transform, tmp_path / "t.h5")
    np.testing.assert_allclose(read_transform(tmp_path / "t.h5").linear, LINEAR, atol=1e-9)


def test_a_linear_transform_needs_a_grid_to_become_a_field(tmp_path):
    with pytest.raises(InputError, match="on which grid"):
        write_transform(Transform((LINEAR,)), tmp_path / "f.nii.gz")
    write_transform(Transform((LINEAR,)), tmp_path / "f.nii.gz", oblique_grid())
    points = points_inside(oblique_grid())
    expected = Transform((LINEAR,)).apply(points)
    np.testing.assert_allclose(read_transform(tmp_path / "f.nii.gz").apply(points), expected, atol=1e-3)


@pytest.mark.parametrize("ending", [*CHAIN, *FIELD])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_cut_file_is_refused(tmp_path, transform, ending, share):
    path = tmp_path / f"t{ending}"
    write_transform(transform, path, oblique_grid())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(FileError, match=r"damaged|cut short|not an ITK"):
        read_transform(path)


def test_a_text_file_that_ends_within_its_last_number_says_so(tmp_path):
    path = tmp_path / "t.tfm"
    write_transform(Transform((LINEAR,)), path)
    whole = path.read_bytes()
    # Nobody can tell whether digits are missing.
    for cut in (whole.rstrip(b"\n"), whole.rstrip(b"\n")[:-1]):
        path.write_bytes(cut)
        with pytest.raises(FileError, match=r"without a line break.* add an empty line at its end"):
            read_transform(path)
    path.write_bytes(whole.rstrip(b"\n") + b"\n")
    np.testing.assert_allclose(read_transform(path).linear, LINEAR, atol=1e-9)


def test_files_that_are_no_3d_transform(tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        read_transform(tmp_path / "t.h5")
    (tmp_path / "t.xyz").write_text("x")
    with pytest.raises(FileError, match="unknown transform format"):
        read_transform(tmp_path / "t.xyz")
    for name in ("t.tfm", "t.h5", "t.nrrd", "t.mat"):
        (tmp_path / name).write_text("1 0 0 0\n0 1 0 0\n")
        with pytest.raises(FileError, match=r"transform|NRRD"):
            read_transform(tmp_path / name)
    sitk.WriteTransform(sitk.AffineTransform(2), str(tmp_path / "flat.tfm"))
    with pytest.raises(InputError, match="2D"):
        read_transform(tmp_path / "flat.tfm")
    sitk.WriteImage(sitk.Image([5, 5, 5], sitk.sitkFloat32), str(tmp_path / "image.nrrd"))
    with pytest.raises(InputError, match="a displacement field has three"):
        read_transform(tmp_path / "image.nrrd")
    with pytest.raises(FileError, match="unknown transform format"):
        write_transform(Transform((LINEAR,)), tmp_path / "t.xyz")
    with pytest.raises(FileError, match="does not exist"):
        write_transform(Transform((LINEAR,)), tmp_path / "missing" / "t.h5")


def test_several_loose_transforms_are_refused(tmp_path):
    block = "#Transform {}\nTransform: AffineTransform_double_3_3\n"
    block += "Parameters: 1 0 0 0 1 0 0 0 1 0 0 {}\nFixedParameters: 0 0 0\n"
    (tmp_path / "two.tfm").write_text("#Insight Transform File V1.0\n" + block.format(0, 5) + block.format(1, 7))
    with pytest.raises(InputError, match="2 separate transforms"):
        read_transform(tmp_path / "two.tfm")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits on file sizes")
@pytest.mark.parametrize("ending", [".tfm", ".nii.gz", ".nii", ".nrrd"])
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, ending):
    code = """
import resource, signal, sys
import numpy as np
from hyperreg.errors import FileError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import write_transform
from hyperreg.imaging.volume import DisplacementField
field = np.random.default_rng(0).normal(size=(3, 24, 24, 24)).astype("f4")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_transform(Transform((DisplacementField(field, np.eye(4)),)), sys.argv[1])
except FileError as error:
    print("refused:", "disk" in str(error))
"""
    path = str(tmp_path / f"t{ending}")
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "refused: True"
    assert os.listdir(tmp_path) == []


def itk_text(kind: str, parameters: str, fixed: str = "1 2 3") -> str:
    block = f"Transform: {kind}\nParameters: {parameters}\nFixedParameters: {fixed}\n"
    return "#Insight Transform File V1.0\n#Transform 0\n" + block


MATRIX = "1.02 0.1 0 -0.1 0.98 0.05 0.02 0 1.01 5 -4 3"


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"),
    [
        # What ITK's documentation says of each, by hand: y = M (x - c) + c + t for LPS points, c = (1, 2, 3).
        ("MatrixOffsetTransformBase_double_3_3", MATRIX, None),
        ("AffineTransform_float_3_3", MATRIX, None),
        ("FixedCenterOfRotationAffineTransform_double_3_3", MATRIX, None),
        ("ScalableAffineTransform_double_3_3", MATRIX, None),
        ("CenteredAffineTransform_double_3_3", MATRIX.replace(" 5 -4 3", " 1 2 3 5 -4 3"), None),
        ("TranslationTransform_double_3_3", "5 -4 3", (5, -4, 3)),
        ("IdentityTransform_double_3_3", "", (0, 0, 0)),
        ("ScaleTransform_double_3_3", "2 1 0.5", (9, 0, 6.5)),  # about c: (x - c) * s + c
        ("QuaternionRigidTransform_double_3_3", "0 0 0.7071067811865476 0.7071067811865476 5 -4 3", None),
    ],
)
def test_every_linear_kind_of_itk_is_taken_over(tmp_path, kind, parameters, expected):
    (tmp_path / "t.txt").write_text(itk_text(kind, parameters))
    x, centre, shift = np.array([10.0, 20.0, -10.0]), np.array([1.0, 2.0, 3.0]), np.array([5.0, -4.0, 3.0])
    if kind.startswith("Quaternion"):  # a quarter turn about z
        y = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]) @ (x - centre) + centre + shift
    elif expected is None:
        y = np.array(MATRIX.split()[:9], float).reshape(3, 3) @ (x - centre) + centre + shift
    else:
        y = x + expected
    transform = read_transform(tmp_path / "t.txt")
    assert transform.is_linear
    np.testing.assert_allclose(transform.apply([x * FLIP])[0] * FLIP, y, atol=1e-6)


def test_a_part_that_simpleitk_has_no_class_for_keeps_its_place_in_a_composite(tmp_path):
    size, origin = "2 2 2", "-50 -50 -50"
    field = f"Transform: DisplacementFieldTransform_double_3_3\nParameters: {'1 2 3 ' * 8}\n"
    field += f"FixedParameters: {size} {origin} 100 100 100 1 0 0 0 1 0 0 0 1\n"
    composite = "#Insight Transform File V1.0\n#Transform 0\nTransform: CompositeTransform_double_3_3\n"
    matrix = "Transform: MatrixOffsetTransformBase_double_3_3\nParameters: 2 0 0 0 2 0 0 0 2 0 0 0\n"
    composite += f"#Transform 1\n{matrix}FixedParameters: 0 0 0\n#Transform 2\n{field}"
    (tmp_path / "t.tfm").write_text(composite)
    transform = read_transform(tmp_path / "t.tfm")
    # ITK applies the last one first: the displacement, then the doubling.
    np.testing.assert_allclose(transform.apply([[-10.0, -10.0, 10.0]])[0] * FLIP, [22, 24, 26], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.mat", "1 0 0 5\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "bare 4x4 matrix"),
        ("t.txt", "1 0 0 5\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "bare 4x4 matrix"),
        ("t.txt", '(Transform "EulerTransform")\n(NumberOfParameters 6)\n', "elastix"),
        (
            "t.tfm",
            itk_text("AzimuthElevationToCartesianTransform_double_3_3", "1 2"),
            "cannot take over|names the kind",
        ),
        ("t.tfm", itk_text("ThinPlateSplineKernelTransform_double_3_3", "1 2 3"), "names the kind ThinPlateSpline"),
        ("t.txt", itk_text("TranslationTransform_double_3_3", "1e16 0 0"), "by up to 1e\\+16 mm"),
        ("t.txt", itk_text("TranslationTransform_double_3_3", "nan 0 0"), "t.txt"),
        ("t.txt", itk_text("TranslationTransform_double_2_2", "1 2", "0 0"), "2D"),
        ("t.txt", "", "not an ITK text"),
        ("t.h5", "", "transform"),
    ],
)
def test_foreign_and_absurd_transforms_are_refused_by_what_they_are(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises((InputError, FileError), match=said) as refused:
        read_transform(tmp_path / name)
    assert name in str(refused.value)


def test_fields_of_other_meanings_are_refused(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    grid = oblique_grid()
    places = np.moveaxis(grid.points(), -1, 0)[:, :, :, :, None].transpose(1, 2, 3, 4, 0).astype(np.float32)
    for flip in ((1, 1, 1), (-1, -1, 1)):
        image = nibabel.Nifti1Image(places * np.float32(flip), grid.ijk_to_ras)
        image.header.set_intent("vector")
        nibabel.save(image, tmp_path / "y_1.nii.gz")
        with pytest.raises(InputError, match="holds the places"):
            read_transform(tmp_path / "y_1.nii.gz")
    image = nibabel.Nifti1Image(np.zeros_like(places), grid.ijk_to_ras)
    image.header.set_intent(2006)
    nibabel.save(image, tmp_path / "warp.nii.gz")
    with pytest.raises(InputError, match="FSL"):
        read_transform(tmp_path / "warp.nii.gz")
    image = nibabel.Nifti1Image(np.full_like(places, 1e16), grid.ijk_to_ras)
    image.header.set_intent("vector")
    nibabel.save(image, tmp_path / "far.nii.gz")
    with pytest.raises(InputError, match="by up to 1e\\+16 mm"):
        read_transform(tmp_path / "far.nii.gz")


@pytest.mark.parametrize(
    ("ending", "said", "more"),
    [
        (".nrrd", "in another unit", b'space units: "cm" "cm" "cm"'),
        (".nrrd", "'measurement frame'", b"measurement frame: (0,1,0) (1,0,0) (0,0,1)"),
        (".nrrd", "", b'space units: "mm" "mm" "mm"'),
        (".nrrd", "", b"measurement frame: (1,0,0) (0,1,0) (0,0,1)"),
        (".mha", "in another unit", b"DistanceUnits = um"),
        (".nii", "in another unit", b"\x03"),
    ],
)
def test_a_field_whose_vectors_may_count_otherwise_is_refused(tmp_path, ending, said, more):
    field = smooth_field(oblique_grid())
    path = tmp_path / f"f{ending}"
    write_transform(Transform((field,)), path)
    raw = path.read_bytes()
    if ending == ".nii":
        path.write_bytes(raw[:123] + more + raw[124:])  # xyzt_units: micrometres
    else:
        mark = {".nrrd": b"\nencoding:", ".mha": b"\nElementDataFile"}[ending]
        path.write_bytes(raw.replace(mark, b"\n" + more + mark, 1))
    if said:
        with pytest.raises(InputError, match=said):
            read_transform(path)
    else:
        np.testing.assert_allclose(read_transform(path).stages[0].array, field.array, atol=1e-4)


def test_a_field_in_a_space_that_is_not_lps_is_refused(tmp_path):
    write_transform(Transform((smooth_field(oblique_grid()),)), tmp_path / "f.nrrd")
    raw = (tmp_path / "f.nrrd").read_bytes()
    for space, frame, refused in [
        (b"right-anterior-superior", b"", True),
        (b"right-anterior-superior", b"\nmeasurement frame: (1,0,0) (0,1,0) (0,0,1)", True),
        (b"right-anterior-superior", b"\nmeasurement frame: (-1,0,0) (0,-1,0) (0,0,1)", False),
        (b"left-posterior-superior", b"", False),
    ]:
        (tmp_path / "f.nrrd").write_bytes(raw.replace(b"left-posterior-superior", space + frame, 1))
        if refused:
            with pytest.raises(InputError, match="left-posterior-superior"):
                read_transform(tmp_path / "f.nrrd")
        else:
            read_transform(tmp_path / "f.nrrd")


@pytest.mark.parametrize(
    ("ending", "name"),
    [(".mat", "T.MAT"), (".h5", "t.tfm"), (".tfm", "t.h5"), (".tfm", "t.mat"), (".h5", "T.H5"), (".tfm", "T.TXT")],
)
def test_content_decides_not_the_name(tmp_path, ending, name):
    matrix = sitk.AffineTransform(3)
    matrix.Rotate(0, 1, 0.3)
    matrix.SetTranslation((5.0, -3.0, 8.0))
    sitk.WriteTransform(matrix, str(tmp_path / f"written{ending}"))
    (tmp_path / f"written{ending}").rename(tmp_path / name)
    points = points_inside(oblique_grid(), 20)
    by_itk = np.array([matrix.TransformPoint((p * FLIP).tolist()) for p in points]) * FLIP
    np.testing.assert_allclose(read_transform(tmp_path / name).apply(points), by_itk, atol=1e-6)


def test_files_that_end_or_hang_the_reader_are_refused(tmp_path, monkeypatch):
    (tmp_path / "short.txt").write_text(itk_text("ScaleTransform_double_3_3", "", "0 0 0"))  # a crash in C++
    with pytest.raises(FileError, match=r"short.txt.*damaged"):
        read_transform(tmp_path / "short.txt")
    monkeypatch.setattr(guarded, "READ_SECONDS", 3.0)
    looping = Path(__file__).resolve().parents[4] / "shared" / "cases" / "files-that-crash" / "131.h5"
    if not looping.is_file():
        pytest.skip("no files that crash")
    with pytest.raises(FileError, match="given up after 3 seconds"):
        read_transform(looping)
