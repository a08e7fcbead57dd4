"""Where DICOM comes from: folders, DICOMDIRs, zips, compressed files, segmentation objects; lists of series."""

from __future__ import annotations

import locale
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from cli_pair import run
from dicom_examples import DIRECTION, SHAPE, SPACING, check, dataset, position, values, write_enhanced, write_slices
from pydicom.encaps import encapsulate, generate_frames
from pydicom.fileset import FileSet
from pydicom.uid import DeflatedExplicitVRLittleEndian

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import dicom
from hyperreg.imaging.dicom.sources import Entry
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.label_maps import read_structures


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two series of one patient and a report, in folders of their own."""
    write_slices(tmp_path / "study" / "ct")
    write_enhanced(tmp_path / "study" / "mr.dcm", SeriesNumber=1, StudyDate="20260305")
    report = dataset("1.2.840.10008.5.1.4.1.1.88.11", "report", "report", Modality="SR", InstanceNumber=1)
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.ContentDate, report.ContentTime, report.ConceptNameCodeSequence = "20260304", "101112", [pydicom.Dataset()]
    report.save_as(tmp_path / "study" / "report.dcm", enforce_file_format=True)
    return tmp_path / "study"


def test_the_list_of_series(study: Path) -> None:
    listing = dicom.list_series(study)
    found = [(s.kind, s.modality, s.description, s.date, s.images, s.patient) for s in listing.series]
    assert found == [
        ("image", "CT", "series", "2026-03-04", 12, "PAT4711X"),
        ("image", "MR", "mr", "2026-03-05", 12, "PAT4711X"),
        ("other", "SR", "report", "2026-03-04", 1, "PAT4711X"),
    ]
    assert [series.problem for series in listing.series][:2] == ["", ""]
    assert "Basic Text SR" in listing.series[2].problem
    assert listing.patients == 1


def test_the_list_reads_no_pixels(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom.series.pixels, "values_of", None)
    monkeypatch.setattr(Entry, "read", None)
    assert all(not series.problem for series in dicom.list_series(study).series[:2])


def test_the_command_that_lists(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_slices(study / "second", series="other", PatientID="PAT0815X")
    assert run("dicom", str(study)) == 0
    shown = capsys.readouterr()
    assert "PAT0815X" not in shown.out
    assert "2 patients" in shown.err
    assert run("dicom", str(study), "--patients") == 0
    assert "PAT0815X" in capsys.readouterr().out
    assert run("dicom", str(study / "no")) == 3
    (study / "notes.txt").write_text("no series")
    assert run("dicom", str(study / "notes.txt")) == 3
    assert "neither a folder, nor a DICOM file, nor a zip" in capsys.readouterr().err
    os.mkfifo(study / "pipe")
    assert run("dicom", str(study / "pipe")) == 3


def _medium(study: Path, folder: Path) -> Path:
    files = FileSet()
    for file in sorted(study.rglob("*.dcm")):
        files.add(file)
    files.write(folder)
    return folder / "DICOMDIR"


def test_a_dicomdir(study: Path, tmp_path: Path) -> None:
    medium = _medium(study, tmp_path / "cd")
    assert [series.images for series in dicom.list_series(medium).series] == [12, 12, 1]
    check(read_volume(Path(f"{medium}#1")))
    check(read_volume(Path(f"{medium}#2")))
    with pytest.raises(InputError, match="'DICOMDIR#1'"):
        read_volume(medium)
    with pytest.raises(InputError, match=r"Series 3 of .* holds an object of the kind 'Basic Text SR"):
        read_volume(Path(f"{medium}#3"))


def test_a_dicomdir_whose_files_are_not_there_or_in_lower_case(tmp_path: Path) -> None:
    write_slices(tmp_path / "series")
    medium = _medium(tmp_path / "series", tmp_path / "cd")
    for file in sorted((tmp_path / "cd").rglob("*"), reverse=True):
        file.rename(file.with_name(file.name.lower()))
    medium = tmp_path / "cd" / "dicomdir"
    check(read_volume(medium))
    last = max((tmp_path / "cd").rglob("im*"))
    shutil.move(last, tmp_path / "away")
    volume = read_volume(medium)
    assert volume.shape == (20, 16, 11)
    assert "1 of 12 files that 'dicomdir' names are not there" in volume.warnings[0]


def test_a_dicomdir_names_no_files_elsewhere(tmp_path: Path) -> None:
    files = write_slices(tmp_path / "outside")
    medium = pydicom.dcmread(_medium(tmp_path / "outside", tmp_path / "cd"))
    for record in medium.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "outside", files[0].name]
    medium.save_as(tmp_path / "cd" / "DICOMDIR", enforce_file_format=True)
    with pytest.raises(FileError, match=r"12 of 12 files .* are not there"):
        read_volume(tmp_path / "cd" / "DICOMDIR")


def _zipped(study: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(study.rglob("*.dcm")):
            archive.write(file, file.relative_to(study))
        archive.writestr("readme.txt", "not an image")
    return path


def test_a_zip(study: Path, tmp_path: Path) -> None:
    archive = _zipped(study, tmp_path / "study.zip")
    before = set(tmp_path.iterdir())
    check(read_volume(Path(f"{archive}#1")))
    check(read_volume(Path(f"{archive}#2")))
    with pytest.raises(InputError, match="2 DICOM series"):
        read_volume(archive)
    assert set(tmp_path.iterdir()) == before


def test_damaged_and_hostile_zips(study: Path, tmp_path: Path) -> None:
    archive = _zipped(study, tmp_path / "study.zip")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match="not a zip that can be read"):
        read_volume(archive)
    data = bytearray(whole)
    start = data.index(b"PK\x01\x02")
    data[start + 8] |= 1  # flag: encrypted
    archive.write_bytes(data)
    with pytest.raises(FileError, match="password"):
        read_volume(archive)
    archive.write_bytes(whole)
    with zipfile.ZipFile(archive) as inside:
        place = inside.getinfo("ct/slice006.dcm").header_offset
    broken = bytearray(whole)
    broken[place + 300 : place + 320] = bytes(20)
    archive.write_bytes(broken)
    with pytest.raises((FileError, InputError), match=r"damaged|missing|cannot be read"):
        read_volume(Path(f"{archive}#1"))
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("../../evil.dcm", "nothing")
    with pytest.raises(FileError, match="no DICOM images"):
        read_volume(archive)
    assert not (tmp_path.parent / "evil.dcm").exists()


def test_a_number_behind_a_file_that_has_it_in_its_name(tmp_path: Path) -> None:
    write_slices(tmp_path / "scan#2")
    check(read_volume(tmp_path / "scan#2"))
    files = write_slices(tmp_path / "plain")
    with pytest.raises(InputError, match="one DICOM file"):
        read_volume(Path(f"{files[0]}#1"))
    with pytest.raises(FileError, match="does not exist"):
        read_volume(tmp_path / "nowhere#1")


# --- compression ---


@pytest.mark.parametrize("syntax", [pydicom.uid.RLELossless, pydicom.uid.JPEGLSLossless])
@pytest.mark.parametrize("sign", [1, -1])
def test_compressed_by_pydicom(tmp_path: Path, syntax: str, sign: int) -> None:
    write_slices(tmp_path, array=sign * values(), change=lambda one, _number: one.compress(syntax))
    check(read_volume(tmp_path), sign * values())


def _compressed_by_itk(folder: Path, compressor: str, sign: int) -> None:
    folder.mkdir(exist_ok=True)
    # ITK's JPEG encoder leaves the process in the "C" locale, where other tests cannot read what children print.
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    for k in range(SHAPE[2]):
        image = sitk.GetImageFromArray(np.ascontiguousarray(sign * values()[:, :, k].T)[None])
        image.SetSpacing(SPACING.tolist())
        image.SetOrigin(position(k).tolist())
        image.SetDirection(DIRECTION.ravel().tolist())
        for key, value in {
            "0008|0060": "CT",
            "0008|0018": f"1.2.3.{k + 1}",
            "0020|000d": "1.2",
            "0020|000e": "1.2.3",
            "0020|0032": "\\".join(f"{x:.6f}" for x in position(k)),
            "0020|0037": "\\".join(f"{x:.9f}" for x in DIRECTION[:, :2].T.ravel()),
        }.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)


@pytest.mark.parametrize(("compressor", "syntax"), [("JPEG", ".4.70"), ("JPEG2000", ".4.90")])
@pytest.mark.parametrize("sign", [1, -1])
def test_compressed_by_itk(tmp_path: Path, compressor: str, syntax: str, sign: int) -> None:
    _compressed_by_itk(tmp_path, compressor, sign)
    assert pydicom.dcmread(tmp_path / "0.dcm").file_meta.TransferSyntaxUID.endswith(syntax)
    check(read_volume(tmp_path), sign * values())


def test_gdcm_works_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _compressed_by_itk(tmp_path, "JPEG", 1)
    for name in ("ReadImage", "ImageFileReader"):
        monkeypatch.setattr(sitk, name, None)
    check(read_volume(tmp_path), values())


def test_codecs_work_in_a_process_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slices(tmp_path, array=values(), change=lambda one, _number: one.compress(pydicom.uid.JPEGLSLossless))
    monkeypatch.setattr("hyperreg.imaging.dicom.pixels.decode", None)
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", None)
    check(read_volume(tmp_path), values())


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_a_compressed_slice_that_is_cut_is_not_read_as_grey(tmp_path: Path, compressor: str) -> None:
    _compressed_by_itk(tmp_path, compressor, 1)
    one = pydicom.dcmread(tmp_path / "5.dcm")
    (frame,) = generate_frames(one.PixelData, number_of_frames=1)
    one.PixelData = encapsulate([frame[: len(frame) // 2]])
    one.save_as(tmp_path / "5.dcm")
    with pytest.raises(FileError, match="damaged or was cut short"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("syntax", "words"),
    [
        (pydicom.uid.HTJ2KLossless, "pip install pylibjpeg pylibjpeg-openjpeg"),
        (pydicom.uid.MPEG2MPML, "convert the series"),
    ],
)
def test_a_compression_that_no_codec_here_reads(tmp_path: Path, syntax: str, words: str) -> None:
    def pack(one: pydicom.Dataset, number: int) -> None:
        one.file_meta.TransferSyntaxUID = syntax
        one.PixelData = encapsulate([bytes(100)])
        one["PixelData"].is_undefined_length = True

    write_slices(tmp_path, change=pack)
    assert dicom.list_series(tmp_path).series[0].images == SHAPE[2]
    with pytest.raises(InputError, match=f"no codec here reads.*{words}"):
        read_volume(tmp_path)


def test_deflated_files_and_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deflate(one: pydicom.Dataset, number: int) -> None:
        one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    write_slices(tmp_path, change=deflate)
    check(read_volume(tmp_path))
    monkeypatch.setattr("hyperreg.imaging.dicom.headers.MOST_DEFLATED_BYTES", 500)
    with pytest.raises(InputError, match="unpacks to more"):
        read_volume(tmp_path / "slice000.dcm")


# --- segmentation objects ---


@pytest.fixture(scope="module")
def objects(real_data: Path) -> Path:
    return real_data / "dicom"


def _places(labels) -> tuple[np.ndarray, np.ndarray]:
    """RAS mm and value of every voxel with a label, in one order."""
    ijk = np.argwhere(labels.array > 0)
    points = labels.grid.to_ras(ijk).round(2) + 0.0
    order = np.lexsort(points.T)
    return points[order], labels.array[tuple(ijk.T)][order]


@pytest.mark.parametrize(
    ("segmentation", "label_map"),
    [
        ("dcmqi/liver.dcm", "dicom/dcmqi/liver_seg.nrrd"),
        ("dcmqi/sparse-labelmap-noppv.dcm", "dicom/dcmqi/sparse_labelmap_noppv_seg.nrrd"),
        ("UCSF-BR-06_SEG.dcm", "test_breast_ucsf/UCSF-BR-06_breast.nii.gz"),
    ],
)
def test_segmentations_agree_with_their_label_maps_in_mm(objects: Path, segmentation: str, label_map: str) -> None:
    points, labels = _places(read_label_map(objects / segmentation))
    other_points, other_labels = _places(read_label_map(objects.parent / label_map))
    np.testing.assert_allclose(points, other_points, atol=0.011)
    np.testing.assert_array_equal(labels, other_labels)
    assert len(labels) > 100


def test_padding_of_a_label_map_segmentation_is_background(objects: Path) -> None:
    labels = read_label_map(objects / "dcmqi" / "sparse-labelmap-ppv5.dcm")
    truth = read_label_map(objects / "dcmqi" / "sparse_labelmap_ppv5_seg.nrrd")
    np.testing.assert_array_equal(labels.array, truth.array % 5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dcmqi/partial_overlaps.dcm", "overlap"),
        ("highdicom/seg_image_ct_binary_overlap.dcm", "overlap"),
        ("highdicom/seg_image_ct_true_fractional.dcm", "fractions"),
        ("STS_001_MR_T2_RTSTRUCT.dcm", "contours"),
        ("highdicom/sm_image_control.dcm", "microscopy"),
    ],
)
def test_what_is_no_label_map(objects: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_label_map(objects / name)


def test_names_and_codes_of_segments(objects: Path) -> None:
    liver = read_structures(objects / "dcmqi" / "liver.dcm")
    assert liver.labels == [1]
    assert liver.table[1].name == "Liver"
    assert liver.table[1].terminology is not None
    assert liver.table[1].terminology.category.meaning == "Tissue"
    assert liver.table[1].terminology.type.meaning == "Liver"


def test_segments_that_overlap_come_in_layers(objects: Path) -> None:
    """Against the label maps that the authors of the object exported, segment by segment, in mm."""
    found = read_structures(objects / "dcmqi" / "partial_overlaps.dcm")
    assert len(found.layers) > 1
    truth = {}
    for number in (1, 2, 3):
        labels = read_label_map(objects / "dcmqi" / f"partial_overlaps-{number}.nrrd")
        for label in np.unique(labels.array[labels.array > 0]):
            truth[int(label)] = labels.grid.to_ras(np.argwhere(labels.array == label))
    assert found.labels == sorted(truth)
    for label, points in truth.items():
        own = np.concatenate([layer.grid.to_ras(np.argwhere(layer.array == label)) for layer in found.layers])
        order, other = (np.lexsort(np.round(p, 1).T) for p in (own, points))
        np.testing.assert_allclose(own[order], points[other], atol=0.011)


def test_a_multi_frame_image_agrees_with_its_slices(objects: Path) -> None:
    slices = read_volume(objects / "dcmqi" / "24x38x3" / "image")
    frames = read_volume(objects / "dcmqi" / "24x38x3" / "multiframe" / "mf.dcm")
    np.testing.assert_array_equal(slices.array, frames.array)
    np.testing.assert_allclose(slices.ijk_to_ras, frames.ijk_to_ras, atol=1e-6)


def test_a_decubitus_series_lies_where_dcm2niix_put_it(objects: Path) -> None:
    """Six slices of a head lying on its left side, against the whole series as NIfTI (rotated by the conversion)."""
    slices = read_volume(objects / "decubitus_HFDL")
    whole = read_volume(objects.parent / "test_heads_decubitus" / "HFDL_T1.nii.gz")
    points = slices.grid.points().reshape(-1, 3)
    ijk = whole.grid.to_ijk(points)
    nearest = np.rint(ijk).astype(int)
    assert np.abs(ijk - nearest).max() < 0.01
    np.testing.assert_array_equal(whole.array[tuple(nearest.T)], slices.array.ravel())
