"""Wrong names, other files beside the one that was asked for, and damage: read right, or refused in words."""

from __future__ import annotations

import bz2
import gzip
import os
import re
import shutil
import struct
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from header_files import ARRAY, MATRIX, check, nifti_file

from hyperreg.errors import FileError, InputError, OutOfMemory
from hyperreg.imaging import files, guarded
from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import Volume


def test_content_decides_not_the_name(tmp_path):
    endings = (".nii", ".nii.gz", ".nrrd", ".mha", ".mgz")
    for ending in endings:
        write_volume(Volume(ARRAY, MATRIX), tmp_path / f"a{ending}")
        for other in (*endings[:-1], ".nii.GZ", ".dat"):
            if ending != ".mgz":
                shutil.copy(tmp_path / f"a{ending}", tmp_path / f"wrong{other}")
                check(read_volume(tmp_path / f"wrong{other}"))
    (tmp_path / "a.mgh").write_bytes((tmp_path / "a.mgz").read_bytes())
    check(read_volume(tmp_path / "a.mgh"))


def test_the_file_asked_for_is_the_file_read(tmp_path):
    """Beside x.nii.gz, an x.nii with other voxels, and the other way round; also pairs, .mhd and .nhdr."""
    other = (ARRAY + 1).astype(np.int16)
    write_volume(Volume(other, MATRIX), tmp_path / "x.nii")
    for name in ("x.img", "x.hdr"):
        nibabel.save(nibabel.Nifti1Pair(other, MATRIX), tmp_path / name)
    write_volume(Volume(ARRAY, MATRIX), tmp_path / "x.nii.gz")
    check(read_volume(tmp_path / "x.nii.gz"))
    np.testing.assert_array_equal(read_volume(tmp_path / "x.nii").array, other)
    np.testing.assert_array_equal(read_volume(tmp_path / "x.img").array, other)
    write_volume(Volume(other, MATRIX), tmp_path / "x.mha")
    write_volume(Volume(ARRAY, MATRIX), tmp_path / "x.mhd")
    shutil.copy(tmp_path / "x.nii", tmp_path / "x.raw")
    check(read_volume(tmp_path / "x.mhd"))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_pairs_of_nifti_files(tmp_path, kind):
    nibabel.save(kind(ARRAY, MATRIX), tmp_path / "a.img")
    check(read_volume(tmp_path / "a.img"))
    check(read_volume(tmp_path / "a.hdr"))
    nibabel.save(kind(ARRAY, MATRIX), tmp_path / "zipped.img.gz")
    (tmp_path / "zipped.img.gz").rename(tmp_path / "zipped.img")
    (tmp_path / "zipped.hdr.gz").rename(tmp_path / "zipped.hdr")
    check(read_volume(tmp_path / "zipped.hdr"))
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
        check(read_volume(header))
        with pytest.raises(FileError, match="another folder"):
            read_volume(header, confined=True)
    (tmp_path / "upload" / data).symlink_to(tmp_path / "private" / data)
    header.write_text(text)
    with pytest.raises(FileError, match="another folder"):
        read_volume(header, confined=True)
    check(read_volume(tmp_path / "private" / f"a{ending}", confined=True))


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


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".nrrd", ".mhd", ".mgh"])
def test_bytes_too_many_are_refused_unless_they_are_zero(tmp_path, ending):
    """Bytes that slipped into the voxels push others out at the end; zeros there may be padding."""
    path = tmp_path / f"a{ending}"
    write_volume(Volume(ARRAY, MATRIX), path)
    if ending in (".mha", ".nrrd", ".mhd"):
        sitk.WriteImage(files.itk.volume_to_itk(Volume(ARRAY, MATRIX)), str(path), False)
    (data,) = [file for file in tmp_path.iterdir() if file.suffix == ".raw"] or [path]
    whole = gzip.decompress(data.read_bytes()) if ending == ".nii.gz" else data.read_bytes()
    middle = len(whole) - ARRAY.nbytes // 2
    for extra in (b"\x07\x09" * 3, b"\x00\x01"):
        spoiled = whole[:middle] + extra + whole[middle:]
        data.write_bytes(gzip.compress(spoiled) if ending == ".nii.gz" else spoiled)
        with pytest.raises(FileError, match="damaged"):
            read_volume(path)
    if ending != ".mgh":
        data.write_bytes(gzip.compress(whole + bytes(512)) if ending == ".nii.gz" else whole + bytes(512))
        check(read_volume(path), warned="512 bytes more")


def test_mgh_that_lost_bytes_within_its_voxels_is_refused_or_told(tmp_path):
    write_volume(Volume(ARRAY, MATRIX), tmp_path / "a.mgh")
    whole = (tmp_path / "a.mgh").read_bytes()
    for lost in range(1, 40):
        (tmp_path / "a.mgh").write_bytes(whole[:500] + whole[500 + lost :])
        if lost in (4, 20):  # what is left ends as files of old programs end
            assert "lacks" in read_volume(tmp_path / "a.mgh").warnings[0]
            continue
        with pytest.raises(FileError, match="damaged"):
            read_volume(tmp_path / "a.mgh")


def test_a_gigantic_header_asks_for_no_memory(tmp_path):
    path = nifti_file(tmp_path / "a.nii", dim=[3, 32000, 32000, 32000, 1, 1, 1, 1])
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
    path = nifti_file(tmp_path / "a.nii", sform=np.eye(4), **{field: value})
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


@pytest.mark.parametrize("read", [read_volume, read_structures, files.read_components, read_transform])
def test_names_that_are_no_file_s_are_told(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.nii")
    os.symlink("b.nii", tmp_path / "a.nii")
    os.symlink("a.nii", tmp_path / "b.nii")
    for name, said in [
        ("pipe.nii", "is a pipe or a device"), ("a.nii", "Too many levels"), ("x" * 300 + ".nii", "name too long"),
        ("none.nii", "does not exist"), ("none.nii/a.nii", "does not exist"), ("n\0ne.nii", "does not exist"),
    ]:  # fmt: skip
        with pytest.raises(FileError, match=said):
            read(tmp_path / name)


def test_a_table_is_looked_for_even_beside_the_longest_name(tmp_path):
    path = tmp_path / ("x" * 251 + ".nii")
    write_volume(Volume(np.tri(8, 7, dtype=np.uint8)[..., None] * np.ones(6, np.uint8), MATRIX), tmp_path / "l.nii")
    shutil.move(tmp_path / "l.nii", path)
    assert read_structures(path).labels == [1]


def test_pairs_of_compressed_files(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(ARRAY, MATRIX), tmp_path / "a.hdr")
    for ending in (".hdr", ".img"):
        (tmp_path / f"b{ending}.gz").write_bytes(gzip.compress((tmp_path / f"a{ending}").read_bytes()))
    shutil.copy(tmp_path / "a.hdr", tmp_path / "c.hdr")
    shutil.copy(tmp_path / "b.img.gz", tmp_path / "c.img.gz")
    for name in ("b.hdr.gz", "b.img.gz", "c.hdr", "c.img.gz"):
        check(read_volume(tmp_path / name))
    (tmp_path / "b.hdr.gz").unlink()
    with pytest.raises(FileError, match="'b\\.hdr' is missing beside it"):
        read_volume(tmp_path / "b.img.gz")


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("a.mha", "TransformMatrix = .*", "TransformMatrix = 2 0 0 0 2 0 0 0 2", "not the length 1"),
        (
            "a.mha",
            "TransformMatrix = .*",
            "TransformMatrix = 1 0 0 .6 .8 0 0 0 1",
            "'a' cannot be used. .* right angles",
        ),
        ("a.mha", "ElementSpacing = .*", "ElementSpacing = 1 2 0", "a.mha' has a damaged header"),
        ("a.nrrd", "space directions: .*", "space directions: (1,0,0) (0,0,0) (0,0,1)", "a.nrrd' has a damaged header"),
        ("a.nrrd", "space: .*", "space: left-posterior-inferior", "a.nrrd' has a damaged header"),
    ],
)
def test_directions_and_sizes_that_are_none_are_refused_by_name(tmp_path, name, old, new, said):
    write_volume(Volume(ARRAY, MATRIX), tmp_path / name)
    raw = (tmp_path / name).read_bytes()
    changed = re.sub(old.encode(), new.encode(), raw, count=1)
    assert changed != raw
    (tmp_path / name).write_bytes(changed)
    with pytest.raises((FileError, InputError), match=said):
        read_volume(tmp_path / name)


@pytest.mark.parametrize(
    ("start", "factor", "said"), [(42, 2, "directions of the lengths"), (30, 0, "'a' cannot be used")]
)
def test_an_mgh_header_whose_directions_or_sizes_are_none_is_refused_by_name(tmp_path, start, factor, said):
    write_volume(Volume(ARRAY, MATRIX), tmp_path / "a.mgh")
    raw = bytearray((tmp_path / "a.mgh").read_bytes())
    numbers = factor * np.frombuffer(bytes(raw[start : start + 12]), ">f4")
    raw[start : start + 12] = numbers.astype(">f4").tobytes()
    (tmp_path / "a.mgh").write_bytes(raw)
    with pytest.raises((FileError, InputError), match=said):
        read_volume(tmp_path / "a.mgh")


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
