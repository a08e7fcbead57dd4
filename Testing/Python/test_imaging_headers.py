"""What a file says about itself: positions, units, companions, contents and checksums; right, told, or refused."""

from __future__ import annotations

import bz2
import gzip
import re
import shutil
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from imaging_examples import affine, oblique_grid, scene

from hyperreg.errors import FileError, InputError, OutOfMemory
from hyperreg.imaging import files, guarded
from hyperreg.imaging.files import as_labels, read_components, read_label_map, read_volume, write_volume
from hyperreg.imaging.volume import DisplacementField, Grid, Volume

MATRIX = affine(25, (1, 2, 3), (31.0, -47.0, 12.5), (-1.5, 2.0, 3.0))
ARRAY = np.random.default_rng(5).integers(-500, 500, (7, 6, 5)).astype(np.int16)


def _nifti(path, *, sform=MATRIX, qform=None, kind=nibabel.Nifti1Image, unit="mm", **fields):
    """A NIfTI file with these two matrices (None: code 0) and header fields changed byte by byte."""
    nibabel.save(kind(ARRAY, np.eye(4)), path)
    raw = bytearray(path.read_bytes())
    size = kind.header_class.sizeof_hdr
    header = kind.header_class(bytes(raw[:size]))
    header.set_xyzt_units(unit)
    header["pixdim"][1:4] = (1.5, 2, 3)
    header.set_sform(sform, 0 if sform is None else 2)
    header.set_qform(qform, 0 if qform is None else 1)
    for name, value in fields.items():
        header[name] = value
    raw[:size] = header.binaryblock
    path.write_bytes(bytes(raw))
    return path


def _check(volume, matrix=MATRIX, warned=None):
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.ijk_to_ras, matrix, rtol=1e-5, atol=1e-4)
    text = " ".join(volume.warnings)
    assert (text == "") if warned is None else (warned in text), text


# Positions and units.


def test_the_sform_counts_and_a_qform_elsewhere_is_told(tmp_path):
    moved = MATRIX.copy()
    moved[2, 3] += 7
    _check(read_volume(_nifti(tmp_path / "a.nii", qform=moved)), warned="sform and qform")
    _check(read_volume(_nifti(tmp_path / "b.nii", qform=MATRIX)))
    _check(read_volume(_nifti(tmp_path / "c.nii", sform=None, qform=moved)), moved)
    nearly = MATRIX.copy()
    nearly[:3, 3] += 0.05  # mm, less than a tenth of a voxel
    _check(read_volume(_nifti(tmp_path / "d.nii", qform=nearly)))


@pytest.mark.parametrize("pixdim", [(1, 1, 1), (1.5, 2, 0), (1.5, 2, np.nan)])
def test_a_pixdim_against_the_sform_is_told(tmp_path, pixdim):
    path = _nifti(tmp_path / "a.nii", pixdim=[1, *pixdim, 1, 1, 1, 1])
    _check(read_volume(path), warned="contradicts itself")


def test_no_position_at_all_is_read_as_itk_does_and_told(tmp_path):
    path = _nifti(tmp_path / "a.nii", sform=None)
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
    _check(read_volume(_nifti(tmp_path / "a.nii", **forms, unit=unit, **fields)), expected)


def test_a_metre_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="another unit"):
        read_volume(_nifti(tmp_path / "a.nii", unit="meter"))


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
    _check(read_volume(tmp_path / "a.nrrd"), expected, warned=None if mm == 1 else "unit")


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
    _check(read_volume(tmp_path / "a.mha"), expected, warned="cm")


@pytest.mark.parametrize(("ending", "line"), [(".mha", b"ElementSpacing"), (".nrrd", b"space directions")])
def test_a_missing_voxel_size_is_told(tmp_path, ending, line):
    write_volume(Volume(ARRAY, np.diag([-1.0, -1, 1, 1])), tmp_path / f"a{ending}")
    raw = (tmp_path / f"a{ending}").read_bytes()
    start = raw.index(line)
    without = raw[:start] + raw[raw.index(b"\n", start) + 1 :]
    (tmp_path / f"a{ending}").write_bytes(without.replace(b"kinds: domain domain domain\n", b""))
    _check(read_volume(tmp_path / f"a{ending}"), np.diag([-1.0, -1, 1, 1]), warned="how large")


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
        _check(read_volume(tmp_path / name))


def test_values_are_scaled_and_nan_stays_nan(tmp_path):
    _nifti(tmp_path / "a.nii", scl_slope=0.5, scl_inter=-3)
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


# Contents, companions, damage.


def test_content_decides_not_the_name(tmp_path):
    endings = (".nii", ".nii.gz", ".nrrd", ".mha", ".mgz")
    for ending in endings:
        write_volume(Volume(ARRAY, MATRIX), tmp_path / f"a{ending}")
        for other in (*endings[:-1], ".nii.GZ", ".dat"):
            if ending != ".mgz":
                shutil.copy(tmp_path / f"a{ending}", tmp_path / f"wrong{other}")
                _check(read_volume(tmp_path / f"wrong{other}"))
    (tmp_path / "a.mgh").write_bytes((tmp_path / "a.mgz").read_bytes())
    _check(read_volume(tmp_path / "a.mgh"))


def test_the_file_asked_for_is_the_file_read(tmp_path):
    """Beside x.nii.gz, an x.nii with other voxels, and the other way round; also pairs, .mhd and .nhdr."""
    other = (ARRAY + 1).astype(np.int16)
    write_volume(Volume(other, MATRIX), tmp_path / "x.nii")
    for name in ("x.img", "x.hdr"):
        nibabel.save(nibabel.Nifti1Pair(other, MATRIX), tmp_path / name)
    write_volume(Volume(ARRAY, MATRIX), tmp_path / "x.nii.gz")
    _check(read_volume(tmp_path / "x.nii.gz"))
    np.testing.assert_array_equal(read_volume(tmp_path / "x.nii").array, other)
    np.testing.assert_array_equal(read_volume(tmp_path / "x.img").array, other)
    write_volume(Volume(other, MATRIX), tmp_path / "x.mha")
    write_volume(Volume(ARRAY, MATRIX), tmp_path / "x.mhd")
    shutil.copy(tmp_path / "x.nii", tmp_path / "x.raw")
    _check(read_volume(tmp_path / "x.mhd"))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_pairs_of_nifti_files(tmp_path, kind):
    nibabel.save(kind(ARRAY, MATRIX), tmp_path / "a.img")
    _check(read_volume(tmp_path / "a.img"))
    _check(read_volume(tmp_path / "a.hdr"))
    nibabel.save(kind(ARRAY, MATRIX), tmp_path / "zipped.img.gz")
    (tmp_path / "zipped.img.gz").rename(tmp_path / "zipped.img")
    (tmp_path / "zipped.hdr.gz").rename(tmp_path / "zipped.hdr")
    _check(read_volume(tmp_path / "zipped.hdr"))
    (tmp_path / "a.img").unlink()
    with pytest.raises(FileError, match=r"'a\.img' is missing"):
        read_volume(tmp_path / "a.hdr")


def test_analyze_is_refused_by_name(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(ARRAY, np.eye(4)), tmp_path / "a.img")
    with pytest.raises(InputError, match="Analyze"):
        read_volume(tmp_path / "a.hdr")


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_uploads_may_name_only_files_beside_them(tmp_path, ending):
    (tmp_path / "private").mkdir()
    (tmp_path / "upload").mkdir()
    image = files.itk.volume_to_itk(Volume(ARRAY, MATRIX))
    sitk.WriteImage(image, str(tmp_path / "private" / f"a{ending}"), False)
    (data,) = (file.name for file in (tmp_path / "private").iterdir() if file.suffix != ending)
    text = (tmp_path / "private" / f"a{ending}").read_text()
    header = tmp_path / "upload" / f"a{ending}"
    for name in (f"../private/{data}", str(tmp_path / "private" / data)):
        header.write_text(text.replace(data, name))
        _check(read_volume(header))
        with pytest.raises(FileError, match="another folder"):
            read_volume(header, confined=True)
    (tmp_path / "upload" / data).symlink_to(tmp_path / "private" / data)
    header.write_text(text)
    with pytest.raises(FileError, match="another folder"):
        read_volume(header, confined=True)
    _check(read_volume(tmp_path / "private" / f"a{ending}", confined=True))


def _spoiled(raw: bytes, share: float) -> bytes:
    start = int(len(raw) * share)
    return raw[:start] + bytes(b ^ 0x5A for b in raw[start : start + 40]) + raw[start + 40 :]


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr", ".nii.gz", ".mgz"])
def test_damaged_compressed_voxels_are_refused(tmp_path, ending):
    """Forty flipped bytes anywhere, a cut end, and a wrong checksum; ITK alone reads most of these without a word."""
    volume = Volume(np.random.default_rng(0).integers(0, 500, (20, 22, 24)).astype(np.int16), MATRIX)
    path = tmp_path / f"a{ending}"
    if ending == ".nhdr":
        sitk.WriteImage(files.itk.volume_to_itk(volume), str(path), True)
    else:
        write_volume(volume, path)
    (data,) = [file for file in tmp_path.iterdir() if file != path] or [path]
    whole = data.read_bytes()
    assert len(whole) < 0.9 * volume.array.nbytes, "not compressed"
    spoiled = [_spoiled(whole, share) for share in np.linspace(0.3, 0.95, 12)]
    for raw in (*spoiled, whole[: len(whole) // 2], whole[:-3], whole[:-6] + bytes(6)):
        data.write_bytes(raw)
        with pytest.raises(FileError, match="damaged"):
            read_volume(path)
    data.write_bytes(whole)
    np.testing.assert_array_equal(read_volume(path).array, volume.array)


@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd", ".mgh"])
def test_a_header_that_belongs_to_other_voxels_is_refused(tmp_path, ending):
    """More voxels than the header says, or fewer: the sizes of the header were changed."""
    path = tmp_path / f"a{ending}"
    write_volume(Volume(np.zeros((160, 140, 30), np.int16), MATRIX), path)
    sizes = {".nii": (struct.pack("<3h", 160, 140, 30), struct.pack("<3h", 160, 140, 28)), ".mgh": (b"", b"")}
    text = {
        ".mha": (b"DimSize = 160 140 30", b"DimSize = 160 140 28"),
        ".nrrd": (b"sizes: 160 140 30", b"sizes: 160 140 28"),
    }
    if ending in (".mha", ".nrrd"):
        sitk.WriteImage(sitk.Image([160, 140, 30], sitk.sitkInt16), str(path), False)
    raw = path.read_bytes()
    before, after = (sizes | text)[ending]
    if ending != ".mgh":
        assert before in raw
        path.write_bytes(raw.replace(before, after))
        with pytest.raises(FileError, match=r"damaged|holds \d+ bytes"):
            read_volume(path)
    path.write_bytes(raw[:-2000])
    with pytest.raises(FileError, match="cut short"):
        read_volume(path)


def test_a_gigantic_header_asks_for_no_memory(tmp_path):
    path = _nifti(tmp_path / "a.nii", dim=[3, 32000, 32000, 32000, 1, 1, 1, 1])
    with pytest.raises(OutOfMemory, match="32000 x 32000 x 32000"):
        read_volume(path)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(OutOfMemory):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((b"encoding: gzip", b"encoding: hex"), "encoding 'hex'"),
        ((b"encoding: gzip", b"encoding: gzip\nline skip: 3"), "behind other things"),
        ((b"encoding: gzip", b"encoding: gzip\ndata file: a%d.raw 1 5 1"), "several files"),
        ((b"dimension: 3", b"dimension: 3\ndimension: 3"), "given twice"),
        ((b"sizes: 7 6 5", b"sizes: 7 6"), "makes no sense"),
        ((b"type: short", b"type: block"), "makes no sense"),
    ],
)
def test_nrrd_headers_that_are_refused(tmp_path, change, words):
    write_volume(Volume(ARRAY, MATRIX), tmp_path / "a.nrrd")
    raw = (tmp_path / "a.nrrd").read_bytes()
    assert change[0] in raw
    (tmp_path / "a.nrrd").write_bytes(raw.replace(*change))
    with pytest.raises((InputError, FileError), match=words):
        read_volume(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("datatype", 77),
        ("bitpix", 8),
        ("vox_offset", np.nan),
        ("vox_offset", 1e30),
        ("vox_offset", 5000),
        ("dim", [0, 7, 6, 5, 1, 1, 1, 1]),
        ("dim", [3, -7, 6, 5, 1, 1, 1, 1]),
        ("dim", [9, 7, 6, 5, 1, 1, 1, 1]),
        ("scl_inter", np.inf),
        ("srow_x", [np.nan, 0, 0, 0]),
        ("srow_x", [0, 0, 0, 0]),
        ("srow_x", [1e30, 0, 0, 0]),
        ("srow_x", [1, 0, 0, 1e9]),
    ],
)
def test_nifti_headers_that_are_refused(tmp_path, field, value):
    path = _nifti(tmp_path / "a.nii", sform=np.eye(4), **{field: value})
    with pytest.raises((FileError, InputError), match=r"damaged|no medical image|not a finite|voxel size of zero"):
        read_volume(path)


def test_files_that_crash_the_readers_are_refused_in_words(real_data):
    folder = real_data.parent / "cases" / "files-that-crash"
    if not folder.is_dir():
        pytest.skip("the samples that crash readers are not here")
    for path in [*folder.glob("*.mha"), *folder.glob("*.nrrd")]:
        with pytest.raises(FileError, match="damaged"):
            read_volume(path)
        with pytest.raises((FileError, RuntimeError)):  # ITK's own reader, without the look at the header
            guarded.call(
                "hyperreg.imaging.itk:read_image", path, f"{'Meta' if path.suffix == '.mha' else 'Nrrd'}ImageIO"
            )


def test_other_formats_are_refused(tmp_path):
    image = files.itk.volume_to_itk(Volume(ARRAY, MATRIX))
    for ending in (".tif", ".vtk", ".gipl"):
        sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
        with pytest.raises(FileError, match="not an image that HyperReg can read"):
            read_volume(tmp_path / f"a{ending}")
    (tmp_path / "a.nii.bz2").write_bytes(bz2.compress(b"anything"))
    (tmp_path / "a.mha").write_bytes(zlib.compress(b"anything"))
    for name in ("a.nii.bz2", "a.mha"):
        with pytest.raises(FileError, match="not an image"):
            read_volume(tmp_path / name)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (1, 4, 4), (4, 1, 1)])
@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_thin_arrays_outlive_the_image_that_they_came_from(tmp_path, shape, ending):
    whole = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) + 1
    write_volume(Volume(whole, MATRIX), tmp_path / f"a{ending}")
    read = [read_volume(tmp_path / f"a{ending}").array for _ in range(20)]
    view = files.itk.volume_from_itk(sitk.Image([*shape], sitk.sitkUInt8) + 7).array
    np.random.default_rng(0).integers(0, 255, (50, 4096)).sum()  # something else takes the memory
    assert all(np.array_equal(array, whole) for array in read)
    assert view.flags.owndata and (view == 7).all()


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
    tests = Path(__file__).parent
    guide = (tests.parents[1] / "docs" / "developer-guide.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", guide))
    defined = set(
        re.findall(r"^def (test_\w+)", "\n".join(p.read_text() for p in tests.glob("test_*.py")), re.MULTILINE)
    )
    assert len(named) > 20 and not named - defined - {"test_packaging"}
