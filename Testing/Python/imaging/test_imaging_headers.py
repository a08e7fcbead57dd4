"""What a file says about itself: positions, units and values; right, told, or refused."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from header_files import ARRAY, MATRIX, check, nifti_file
from imaging_examples import oblique_grid, scene

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import files
from hyperreg.imaging.files import read_components, read_label_map, read_volume, write_volume
from hyperreg.imaging.label_checks import as_labels
from hyperreg.imaging.volume import DisplacementField, Grid, Volume


def test_the_sform_counts_and_a_qform_elsewhere_is_told(tmp_path):
    moved = MATRIX.copy()
    moved[2, 3] += 7
    check(read_volume(nifti_file(tmp_path / "a.nii", qform=moved)), warned="sform and qform")
    check(read_volume(nifti_file(tmp_path / "b.nii", qform=MATRIX)))
    check(read_volume(nifti_file(tmp_path / "c.nii", sform=None, qform=moved)), moved)
    nearly = MATRIX.copy()
    nearly[:3, 3] += 0.05  # mm, less than a tenth of a voxel
    check(read_volume(nifti_file(tmp_path / "d.nii", qform=nearly)))


@pytest.mark.parametrize("pixdim", [(1, 1, 1), (1.5, 2, 0), (1.5, 2, np.nan)])
def test_a_pixdim_against_the_sform_is_told(tmp_path, pixdim):
    path = nifti_file(tmp_path / "a.nii", pixdim=[1, *pixdim, 1, 1, 1, 1])
    check(read_volume(path), warned="contradicts itself")


def test_no_position_at_all_is_read_as_itk_does_and_told(tmp_path):
    path = nifti_file(tmp_path / "a.nii", sform=None)
    image = sitk.ReadImage(str(path))
    lps = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    expected = np.diag([-1.0, -1, 1]) @ lps
    volume = read_volume(path)
    np.testing.assert_allclose(volume.ijk_to_ras[:3, :3], expected, atol=1e-6)
    np.testing.assert_allclose(volume.ijk_to_ras[:3, 3], np.array(image.GetOrigin()) * (-1, -1, 1), atol=1e-6)
    assert "neither sform nor qform" in volume.warnings[0]


@pytest.mark.parametrize(("unit", "mm"), [("micron", 0.001), ("meter", 1000.0), ("unknown", 1.0)])
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_nifti_units(tmp_path, unit, mm, form):
    straight = np.diag([-0.02, 0.03, 0.04, 1.0])
    straight[:3, 3] = (0.5, -0.6, 0.7)
    forms = {"sform": None, "qform": None, form: straight}
    fields = {"pixdim": [-1, 0.02, 0.03, 0.04, 1, 1, 1, 1]} if form == "sform" else {}
    expected = straight.copy()
    expected[:3] *= mm
    check(read_volume(nifti_file(tmp_path / "a.nii", **forms, unit=unit, **fields)), expected)


def test_a_metre_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="another unit"):
        read_volume(nifti_file(tmp_path / "a.nii", unit="meter"))


@pytest.mark.parametrize(
    ("words", "mm"),
    [
        ('"microns"', 1e-3),
        ('"um"', 1e-3),
        ('"µm"', 1e-3),
        ('"m"', 1e3),
        ('"cm"', 10),
        ('"mm"', 1),
        ('""', 1),
    ],
)
def test_nrrd_space_units(tmp_path, words, mm):
    lines = ["NRRD0005", "type: short", "dimension: 3", "space: RAS", "sizes: 7 6 5"]
    lines += [
        f"space directions: ({0.02 / mm},0,0) (0,{0.03 / mm},0) (0,0,{0.04 / mm})",
        f"space origin: ({5 / mm},0,0)",
    ]
    lines += ["kinds: domain domain domain", "endian: little", "encoding: raw", f"space units: {words} {words} {words}"]
    (tmp_path / "a.nrrd").write_bytes("\n".join([*lines, "", ""]).encode() + ARRAY.tobytes(order="F"))
    expected = np.diag([0.02, 0.03, 0.04, 1.0])
    expected[0, 3] = 5
    check(read_volume(tmp_path / "a.nrrd"), expected, warned=None if mm == 1 else "unit")


def test_unknown_or_mixed_nrrd_units_are_refused(tmp_path):
    write_volume(Volume(ARRAY, MATRIX), tmp_path / "a.nrrd")
    raw = (tmp_path / "a.nrrd").read_bytes()
    for words in ('"furlong" "furlong" "furlong"', '"mm" "um" "mm"'):
        (tmp_path / "a.nrrd").write_bytes(raw.replace(b"\nencoding", f"\nspace units: {words}\nencoding".encode()))
        with pytest.raises(InputError, match="units"):
            read_volume(tmp_path / "a.nrrd")


def test_metaimage_units(tmp_path):
    write_volume(Volume(ARRAY, MATRIX), tmp_path / "a.mha")
    raw = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(raw.replace(b"\nDimSize", b"\nDistanceUnits = cm\nDimSize"))
    expected = MATRIX.copy()
    expected[:3] *= 10
    check(read_volume(tmp_path / "a.mha"), expected, warned="cm")


@pytest.mark.parametrize(("ending", "line"), [(".mha", b"ElementSpacing"), (".nrrd", b"space directions")])
def test_a_missing_voxel_size_is_told(tmp_path, ending, line):
    write_volume(Volume(ARRAY, np.diag([-1.0, -1, 1, 1])), tmp_path / f"a{ending}")
    raw = (tmp_path / f"a{ending}").read_bytes()
    start = raw.index(line)
    without = raw[:start] + raw[raw.index(b"\n", start) + 1 :]
    (tmp_path / f"a{ending}").write_bytes(without.replace(b"kinds: domain domain domain\n", b""))
    check(read_volume(tmp_path / f"a{ending}"), np.diag([-1.0, -1, 1, 1]), warned="how large")


def test_mgh_without_position_is_read_as_freesurfer_does(tmp_path):
    write_volume(Volume(ARRAY, MATRIX), tmp_path / "a.mgh")
    raw = bytearray((tmp_path / "a.mgh").read_bytes())
    raw[28:30] = b"\0\0"
    (tmp_path / "a.mgh").write_bytes(bytes(raw))
    volume = read_volume(tmp_path / "a.mgh")
    np.testing.assert_array_equal(volume.ijk_to_ras[:3, :3], [[-1, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert "1 mm" in volume.warnings[0]


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_of_both_versions_and_byte_orders(tmp_path, kind, name):
    big = kind(ARRAY, MATRIX, kind.header_class(endianness=">"))
    for image in (kind(ARRAY, MATRIX), big):
        nibabel.save(image, tmp_path / name)
        check(read_volume(tmp_path / name))


def test_values_are_scaled_and_nan_stays_nan(tmp_path):
    nifti_file(tmp_path / "a.nii", scl_slope=0.5, scl_inter=-3)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, ARRAY * np.float32(0.5) - 3)
    holes = scene(oblique_grid()).array
    holes[2:5] = np.nan
    holes[6, 0, 0] = np.inf
    for ending in (".nii", ".nii.gz", ".nrrd", ".mha", ".mgz"):
        write_volume(Volume(holes, MATRIX), tmp_path / f"h{ending}")
        np.testing.assert_array_equal(read_volume(tmp_path / f"h{ending}").array, holes)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".mgz"])
def test_numbers_of_32_bits_survive_or_are_refused(tmp_path, ending):
    labels = np.zeros((4, 4, 4), np.uint32)
    labels.flat[:5] = (614454277, 16777217, 997, 2147483647, 2147483648)
    if ending == ".mgz":
        with pytest.raises(InputError, match="cannot hold numbers as large as 2147483648"):
            write_volume(Volume(labels, MATRIX), tmp_path / f"a{ending}")
        labels.flat[4] = 0
    write_volume(Volume(labels, MATRIX), tmp_path / f"a{ending}")
    np.testing.assert_array_equal(read_label_map(tmp_path / f"a{ending}").array, labels)


def test_label_numbers_that_floats_round_are_refused():
    labels = np.zeros((4, 4, 4))
    labels[1] = 4294967295
    np.testing.assert_array_equal(as_labels(Volume(labels, MATRIX)), labels)
    labels[1] = 16777217
    assert as_labels(Volume(labels, MATRIX)).max() == 16777217
    with pytest.raises(InputError, match="rounds them"):
        as_labels(Volume((labels + 5).astype(np.float32), MATRIX))


def test_label_numbers_beyond_those_of_64_bits_are_refused(tmp_path):
    labels = np.zeros((4, 4, 4), np.uint64)
    labels[1] = 2**63 - 1
    write_volume(Volume(labels, MATRIX), tmp_path / "l.nii.gz")
    assert read_label_map(tmp_path / "l.nii.gz").array.max() == 2**63 - 1
    labels[1] = 2**63
    write_volume(Volume(labels, MATRIX), tmp_path / "l.nii.gz")
    with pytest.raises(InputError, match="9223372036854775808, more than"):
        read_label_map(tmp_path / "l.nii.gz")


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_vectors_are_read_as_they_are(tmp_path, ending):
    vectors = np.random.default_rng(1).normal(0, 3, (3, 7, 6, 5)).astype(np.float32)
    path = tmp_path / f"f{ending}"
    if ending == ".nii.gz":
        files.nifti.write(path, vectors, Grid((7, 6, 5), MATRIX), intent=1006)
    else:
        sitk.WriteImage(
            sitk.Cast(files.itk.field_to_itk(DisplacementField(vectors, MATRIX)), sitk.sitkVectorFloat32),
            str(path),
            True,
        )
        vectors = vectors * np.array([-1, -1, 1], np.float32)[:, None, None, None]
    array, matrix, intent = read_components(path)
    np.testing.assert_array_equal(array, vectors)
    np.testing.assert_allclose(matrix, MATRIX, atol=1e-4)
    assert intent == (1006 if ending == ".nii.gz" else 0)
    with pytest.raises(InputError, match="3 values per voxel"):
        read_volume(path)
    write_volume(Volume(ARRAY, MATRIX), path)
    with pytest.raises(InputError, match="one number"):
        read_components(path)


def test_the_table_of_the_developer_guide_names_tests_that_exist():
    tests = Path(__file__).parents[1]
    guide = (tests.parents[1] / "docs" / "developer-guide.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", guide))
    defined = set(
        re.findall(r"^def (test_\w+)", "\n".join(p.read_text() for p in tests.rglob("test_*.py")), re.MULTILINE)
    )
    defined |= {path.stem for path in tests.rglob("test_*.py")}
    assert len(named) > 20 and not named - defined


@pytest.mark.parametrize(("ending", "line"), [(".mha", b"Offset"), (".nrrd", b"space origin")])
def test_a_missing_position_is_told(tmp_path, ending, line):
    at_zero = MATRIX.copy()
    at_zero[:3, 3] = 0
    write_volume(Volume(ARRAY, MATRIX), tmp_path / f"a{ending}")
    raw = (tmp_path / f"a{ending}").read_bytes()
    start = raw.index(line)
    (tmp_path / f"a{ending}").write_bytes(raw[:start] + raw[raw.index(b"\n", start) + 1 :])
    check(read_volume(tmp_path / f"a{ending}"), at_zero, warned="where the image lies")


def test_a_nrrd_of_sizes_that_are_no_numbers_is_told(tmp_path):
    head = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 5\nspacings: 1 1 nan\nencoding: raw\nendian: little\n\n"
    (tmp_path / "a.nrrd").write_bytes(head + ARRAY.tobytes(order="F"))
    check(read_volume(tmp_path / "a.nrrd"), np.diag([-1.0, -1, 1, 1]), warned="how large")


def test_what_itk_adds_of_the_file_it_read_is_no_damage(tmp_path):
    nifti_file(tmp_path / "a.nii")
    image = sitk.ReadImage(str(tmp_path / "a.nii"))
    image.SetMetaData("0008|0060", "MR")
    image.SetMetaData("0008|2111", "derived by a program\r\nthat had much to say")
    for ending in (".mha", ".mhd", ".nrrd"):
        sitk.WriteImage(image, str(tmp_path / f"b{ending}"))
        check(read_volume(tmp_path / f"b{ending}"))
    raw = (tmp_path / "b.mha").read_bytes()
    for line in (b"Offset", b"ElementSpacing"):
        (tmp_path / "b.mha").write_bytes(raw.replace(line + b" =", line + b" #"))
        with pytest.raises(FileError, match="without '='"):
            read_volume(tmp_path / "b.mha")


def test_values_that_metaimage_wants_scaled_are_told(tmp_path):
    """ITK, and so 3D Slicer, leave them as they are."""
    write_volume(Volume(ARRAY, MATRIX), tmp_path / "a.mha")
    raw = (tmp_path / "a.mha").read_bytes()
    scaled = b"\nElementToIntensityFunctionSlope = 2\nElementToIntensityFunctionOffset = 5\nDimSize"
    (tmp_path / "a.mha").write_bytes(raw.replace(b"\nDimSize", scaled))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.mha"))), ARRAY.T)
    check(read_volume(tmp_path / "a.mha"), warned="slope 2, offset 5")


def test_a_qform_without_a_hand_is_right_handed(tmp_path):
    """nifti1.h: pixdim[0] is 1 unless it is -1; old conversions leave 0 there."""
    path = nifti_file(tmp_path / "a.nii", sform=None, qform=np.diag([1.5, 2, 3, 1]), pixdim=[0, 1.5, 2, 3, 1, 1, 1, 1])
    direction = np.array(sitk.ReadImage(str(path)).GetDirection()).reshape(3, 3)
    expected = np.diag([-1.0, -1, 1]) @ direction * (1.5, 2, 3)
    np.testing.assert_allclose(read_volume(path).ijk_to_ras[:3, :3], expected, atol=1e-6)


def test_one_file_that_claims_to_be_a_pair_is_refused(tmp_path):
    path = nifti_file(tmp_path / "a.nii", magic=b"ni1")
    with pytest.raises(FileError, match=r"voxels are in a file \.img"):
        read_volume(path)
