"""DICOM series and multi-frame objects: geometry of an oblique series in mm, and what is no volume is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_examples import (
    DIRECTION,
    SHAPE,
    SPACING,
    add_pixels,
    check,
    dataset,
    position,
    values,
    write_enhanced,
    write_slices,
)
from imaging_examples import rotation
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, PositronEmissionTomographyImageStorage, generate_uid

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.files import read_volume


def test_a_series_folder(tmp_path: Path) -> None:
    write_slices(tmp_path / "series")
    (tmp_path / "series" / "readme.txt").write_text("not an image")
    volume = read_volume(tmp_path / "series")
    check(volume)
    assert volume.name == "series"
    assert volume.array.dtype == np.int16
    assert volume.warnings == ()


def test_itk_finds_the_same_voxels_in_the_same_places(tmp_path: Path) -> None:
    files = write_slices(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    image = reader.Execute()
    volume = read_volume(tmp_path)
    for ijk in ((0, 0, 0), (19, 15, 11), (5, 2, 7)):
        lps = np.array(image.TransformContinuousIndexToPhysicalPoint([float(x) for x in ijk]))
        np.testing.assert_allclose(volume.grid.to_ras(ijk), lps * (-1, -1, 1), atol=1e-3)
        assert volume.array[ijk] == image[ijk]


@pytest.mark.parametrize(
    "direction",
    [
        np.eye(3),
        rotation(90, (1, 0, 0)),  # coronal
        rotation(90, (0, 0, 1)) @ rotation(90, (1, 0, 0)),  # sagittal
        rotation(180, (0, 0, 1)) @ DIRECTION,  # prone
        rotation(90, (0, 0, 1)) @ DIRECTION,  # decubitus
        np.diag([1.0, -1.0, -1.0]) @ DIRECTION,  # feet first
    ],
)
def test_all_directions_and_files_in_any_order(tmp_path: Path, direction: np.ndarray) -> None:
    order = np.random.default_rng(3).permutation(SHAPE[2])
    write_slices(tmp_path, places=[int(k) for k in order], direction=direction)
    check(read_volume(tmp_path), direction=direction)


def test_one_file_stands_for_its_series_among_several(tmp_path: Path) -> None:
    files = write_slices(tmp_path)
    write_slices(tmp_path, series="other", prefix="other", places=range(3, 12), SeriesNumber=4)
    check(read_volume(files[4]))
    with pytest.raises(InputError, match=r"2 DICOM series: #1 CT, 'series', 2026-03-04, 12 image.*#2 CT, 'other'"):
        read_volume(tmp_path)
    check(read_volume(Path(f"{tmp_path}#1")))
    assert read_volume(Path(f"{tmp_path}#2")).shape == (20, 16, 9)
    with pytest.raises(InputError, match="no number 3"):
        read_volume(Path(f"{tmp_path}#3"))


def test_a_localiser_beside_the_volume_is_left_out_with_a_word(tmp_path: Path) -> None:
    write_slices(tmp_path, places=[0, 3], series="scout", prefix="scout")
    write_slices(tmp_path)
    volume = read_volume(tmp_path)
    check(volume)
    assert "2 DICOM image series; the only volume was taken: CT, 'series'" in volume.warnings[0]


def _shift(one: pydicom.Dataset, number: int) -> None:
    one.ImagePositionPatient = [f"{x:.6f}" for x in position(number) + DIRECTION[:, 1] * 0.3 * number]


def _jitter(one: pydicom.Dataset, number: int) -> None:
    one.ImagePositionPatient = [f"{x:.6f}" for x in position(number) + DIRECTION[:, 0] * 0.5 * (number % 3 == 1)]


def _turn(one: pydicom.Dataset, number: int) -> None:
    if number == 5:
        one.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def _crop(one: pydicom.Dataset, number: int) -> None:
    if number == 5:
        add_pixels(one, values()[:10, :, 5].T)


def _setter(keyword: str, value: object, only: int | None = None):
    def change(one: pydicom.Dataset, number: int) -> None:
        if only is None or number == only:
            setattr(one, keyword, value)

    return change


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"places": [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]}, "missing or unevenly spaced"),
        ({"change": _shift}, "tilted gantry"),
        ({"change": _jitter}, "shifted sideways"),
        ({"change": _turn}, "not parallel"),
        ({"change": _crop}, "different sizes"),
        ({"places": [0, 0, 1, 1, 2, 2]}, "same place"),
        ({"change": _setter("PixelSpacing", [0.9, 0.9], 3)}, "different pixel sizes"),
        ({"change": _setter("PixelSpacing", [0, 0])}, "how large its pixels"),
        ({"change": _setter("ImagePositionPatient", None)}, "where in the patient"),
        ({"change": _setter("ImageOrientationPatient", [1, 0, 0, 0.5, 1, 0])}, "right angles"),
        ({"change": _setter("FrameOfReferenceUID", generate_uid(), 4)}, "different frames of reference"),
        ({"change": _setter("RescaleSlope", 0)}, "values cannot be told"),
        ({"change": _setter("SamplesPerPixel", 3)}, "colour"),
        ({"change": _setter("ModalityLUTSequence", [pydicom.Dataset()])}, "look-up table"),
        ({"change": _setter("BitsAllocated", 12)}, "12 bits"),
    ],
)
def test_series_that_are_no_volume(tmp_path: Path, how: dict, words: str) -> None:
    write_slices(tmp_path / "series", **how)
    with pytest.raises(InputError, match=words):
        read_volume(tmp_path / "series")


def test_slices_of_one_place_are_told_apart_in_words(tmp_path: Path) -> None:
    def echo(one: pydicom.Dataset, number: int) -> None:
        one.EchoTime = 10 + 20 * (number % 2)

    write_slices(tmp_path, places=[0, 0, 1, 1, 2, 2, 3, 3], change=echo, sop_class=MRImageStorage)
    with pytest.raises(InputError, match=r"same place \(2 echo times\)"):
        read_volume(tmp_path)


def test_rounded_positions_are_even_and_a_declared_distance_is_doubted(tmp_path: Path) -> None:
    def rounded(one: pydicom.Dataset, number: int) -> None:
        one.ImagePositionPatient = [round(float(x), 1) for x in one.ImagePositionPatient]
        one.SpacingBetweenSlices = 1.25

    write_slices(tmp_path, change=rounded)
    volume = read_volume(tmp_path)
    np.testing.assert_allclose(volume.spacing, SPACING, atol=0.01)
    assert "says that slices are 1.25 mm apart; by their positions they are 2.49" in volume.warnings[0]


def test_copies_of_a_file_are_left_out_and_forgeries_refused(tmp_path: Path) -> None:
    files = write_slices(tmp_path)
    (tmp_path / "copy.dcm").write_bytes(files[2].read_bytes())
    volume = read_volume(tmp_path)
    check(volume)
    assert "1 file(s) twice" in volume.warnings[0]
    other = pydicom.dcmread(files[2])
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(tmp_path / "copy.dcm")
    with pytest.raises(InputError, match="claim to be the same image"):
        read_volume(tmp_path)


def test_two_patients_under_one_series_uid_are_two_series(tmp_path: Path) -> None:
    write_slices(tmp_path)
    write_slices(tmp_path, prefix="other", PatientID="PAT4712X", PatientName="Doe^John")
    with pytest.raises(InputError, match="2 DICOM series of 2 patients"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("scalings", "dtype"),
    [
        (lambda k: (1.0 if k == 0 else 0.02, 0.0), np.float32),
        (lambda k: (0.5 + 0.1 * k, -3.0 * k), np.float32),
        (lambda k: (1.0, -1024.0), np.int16),
        (lambda k: (40.0, 0.0), np.int32),
    ],
)
def test_slopes_and_intercepts_of_each_slice(tmp_path: Path, scalings, dtype) -> None:
    def scale(one: pydicom.Dataset, number: int) -> None:
        one.RescaleSlope, one.RescaleIntercept = (f"{x:g}" for x in scalings(number))

    write_slices(tmp_path, change=scale, sop_class=PositronEmissionTomographyImageStorage)
    slopes, intercepts = np.array([scalings(k) for k in range(SHAPE[2])]).T
    volume = read_volume(tmp_path)
    check(volume, values() * slopes + intercepts)
    assert volume.array.dtype == dtype


def test_signs_that_differ_by_slice(tmp_path: Path) -> None:
    def unsigned(one: pydicom.Dataset, number: int) -> None:
        if number == 3:
            add_pixels(one, (values()[:, :, 3].T.astype(np.int32) + 40000).astype(np.uint16))

    write_slices(tmp_path, array=-values(), change=unsigned)
    expected = -values().astype(np.int32)
    expected[:, :, 3] = values()[:, :, 3].astype(np.int32) + 40000
    check(read_volume(tmp_path), expected)


def test_values_above_free_bits_and_with_a_sign_of_their_own(tmp_path: Path) -> None:
    def moved_up(one: Dataset, number: int) -> None:
        one.BitsStored, one.HighBit = 12, 15
        one.PixelData = (np.frombuffer(one.PixelData, "<u2") << 4 | 0b1010).astype("<u2").tobytes()

    write_slices(tmp_path / "high", array=values().astype(np.uint16), change=moved_up)
    check(read_volume(tmp_path / "high"))

    def twelve_bits(one: Dataset, number: int) -> None:
        one.BitsStored, one.HighBit = 12, 11
        one.PixelData = (np.frombuffer(one.PixelData, "<u2") & 0x0FFF).astype("<u2").tobytes()

    write_slices(tmp_path / "signed", array=values() - 500, change=twelve_bits)
    check(read_volume(tmp_path / "signed"), values() - 500)
    write_slices(tmp_path / "low", change=lambda one, _number: setattr(one, "HighBit", 9))
    with pytest.raises(InputError, match="contradicts itself about the bits"):
        read_volume(tmp_path / "low")


@pytest.mark.parametrize(
    ("keyword", "one", "other", "said"),
    [
        ("EchoTime", "10", "100", "of 2 echo times (10, 100)"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"], "of 2 kinds of image"),
        ("Units", "BQML", "CNTS", "of 2 units of values (BQML, CNTS)"),
        ("RescaleType", "HU", "US", "of 2 units of values (HU, US)"),
        ("PhotometricInterpretation", "MONOCHROME1", "MONOCHROME2", "of 2 scales of grey"),
        ("AcquisitionNumber", 1, 2, ""),
    ],
)
def test_slices_that_take_turns_but_are_of_two_images_are_told(
    tmp_path: Path, keyword: str, one: Any, other: Any, said: str
) -> None:
    write_slices(tmp_path, change=lambda each, number: setattr(each, keyword, (one, other)[number % 2]))
    volume = read_volume(tmp_path)
    check(volume)
    found = [text for text in volume.warnings if "Do they form one image?" in text]
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_values_that_are_shown_inverted_or_lost_their_sign_are_told(tmp_path: Path) -> None:
    write_slices(tmp_path / "white", change=lambda one, _number: setattr(
        one, "PhotometricInterpretation", "MONOCHROME1"
    ))  # fmt: skip
    volume = read_volume(tmp_path / "white")
    check(volume)
    assert any("MONOCHROME1" in text for text in volume.warnings)
    write_slices(tmp_path / "sign", array=values() - 500, change=lambda one, _number: setattr(
        one, "PixelRepresentation", 0
    ))  # fmt: skip
    assert any("without a sign" in text for text in read_volume(tmp_path / "sign").warnings)


def test_dicom_of_old_programs_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    files = write_slices(tmp_path / "bare")
    for file in files:
        file.write_bytes(file.read_bytes()[132:])
    for path in (tmp_path / "bare", files[0]):
        with pytest.raises(FileError, match="DICOM without the mark"):
            read_volume(path)
    for file in (files := write_slices(tmp_path / "syntax")):
        one = pydicom.dcmread(file)
        del one.file_meta.TransferSyntaxUID
        pydicom.dcmwrite(file, one, enforce_file_format=False, implicit_vr=False, little_endian=True)
    with pytest.raises(InputError, match="no Transfer Syntax UID"):
        read_volume(files[0])


def test_drawings_in_unused_bits_are_no_values(tmp_path: Path) -> None:
    def draw(one: pydicom.Dataset, number: int) -> None:
        pixels = values()[:, :, number].T.astype(np.uint16)
        pixels[2:5] |= 0x8000
        add_pixels(one, pixels)
        one.BitsStored, one.HighBit = 12, 11
        one.add_new((0x6000, 0x0010), "US", one.Rows)
        one.add_new((0x6000, 0x0102), "US", 15)

    write_slices(tmp_path, change=draw)
    check(read_volume(tmp_path))


# --- several frames in one file ---


def test_frames_in_any_order_with_a_scaling_each(tmp_path: Path) -> None:
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    scalings = [(1 + 0.25 * k, 10.0 * k) for k in order]
    path = write_enhanced(tmp_path / "mr.dcm", array=values()[:, :, order], places=order, scalings=scalings)
    slopes, intercepts = (np.array([1 + 0.25 * k for k in range(12)]), np.array([10.0 * k for k in range(12)]))
    check(read_volume(path), values() * slopes + intercepts)
    check(read_volume(tmp_path), values() * slopes + intercepts)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            {
                "places": [*range(6), *range(6)],
                "contents": [{"TemporalPositionIndex": 1 + n // 6} for n in range(12)],
            },
            r"same place \(2 time points\)",
        ),
        ({"places": [*range(6), *range(9, 15)]}, "missing or unevenly spaced"),
        ({"shifts": np.arange(12)[:, None] * DIRECTION[:, 1] * 0.4}, "tilted gantry"),
        ({"change": lambda one: one.PerFrameFunctionalGroupsSequence.pop()}, "contradicts itself"),
        ({"change": lambda one: delattr(one, "PerFrameFunctionalGroupsSequence")}, "where each frame lies"),
    ],
)
def test_frames_that_are_no_volume(tmp_path: Path, how: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_volume(write_enhanced(tmp_path / "mr.dcm", **how))


def test_two_multi_frame_files_of_a_series_are_two_volumes(tmp_path: Path) -> None:
    first = write_enhanced(tmp_path / "first.dcm", SeriesInstanceUID="1.2.3")
    write_enhanced(tmp_path / "second.dcm", SeriesInstanceUID="1.2.3", array=values() + 7)
    check(read_volume(first))
    check(read_volume(tmp_path / "second.dcm"), values() + 7)
    with pytest.raises(InputError, match="same place"):
        read_volume(tmp_path)


def test_parts_of_a_concatenation_belong_together(tmp_path: Path) -> None:
    for part, ks in ((1, range(5)), (2, range(5, 12))):
        write_enhanced(
            tmp_path / f"part{part}.dcm", array=values()[:, :, list(ks)], places=list(ks), SeriesInstanceUID="1.2.3",
            InConcatenationNumber=part, InConcatenationTotalNumber=2, SeriesDescription="parts",
        )  # fmt: skip
    check(read_volume(tmp_path / "part2.dcm"))


# --- what lies beside a series, or is no image ---


@pytest.mark.parametrize(
    ("sop_class", "words"),
    [
        ("1.2.840.10008.5.1.4.1.1.481.2", "radiotherapy dose"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "contours"),
        ("1.2.840.10008.5.1.4.1.1.88.34", "Comprehensive 3D SR"),
    ],
)
def test_objects_that_are_no_images(tmp_path: Path, sop_class: str, words: str) -> None:
    write_slices(tmp_path)
    stray = dataset(sop_class, "stray", "stray", Modality="RTDOSE")
    if sop_class.endswith("481.2"):
        add_pixels(stray, values().transpose(2, 1, 0).astype(np.uint16))
        stray.NumberOfFrames = 12
    stray.save_as(tmp_path / "stray.dcm", enforce_file_format=True)
    check(read_volume(tmp_path))
    with pytest.raises(InputError, match=f"holds .*{words}"):
        read_volume(tmp_path / "stray.dcm")
    alone = tmp_path / "alone"
    alone.mkdir()
    (tmp_path / "stray.dcm").rename(alone / "stray.dcm")
    with pytest.raises(FileError, match=f"no DICOM images, only .*{words}"):
        read_volume(alone)


def test_a_radiograph_and_a_single_image(tmp_path: Path) -> None:
    def projection(one: pydicom.Dataset, number: int) -> None:
        del one.PixelSpacing
        one.ImagerPixelSpacing = [0.1, 0.1]

    (radiograph,) = write_slices(tmp_path / "x", places=[0], change=projection)
    with pytest.raises(InputError, match="radiograph"):
        read_volume(radiograph)
    (single,) = write_slices(tmp_path / "one", places=[0], change=lambda one, _number: delattr(one, "SliceThickness"))
    with pytest.raises(InputError, match="single DICOM image"):
        read_volume(single)


def test_a_folder_without_dicom(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no DICOM"):
        read_volume(tmp_path)


# --- damage ---


def test_a_cut_slice(tmp_path: Path) -> None:
    files = write_slices(tmp_path / "series")
    files[6].write_bytes(files[6].read_bytes()[:-300])
    with pytest.raises(FileError, match="cut short"):
        read_volume(tmp_path / "series")


def test_a_file_that_nobody_can_parse_leaves_a_gap(tmp_path: Path) -> None:
    files = write_slices(tmp_path)
    files[6].write_bytes(files[6].read_bytes()[:200])
    with pytest.raises(InputError, match="missing"):
        read_volume(tmp_path)
    with pytest.raises(FileError, match="damaged or was cut short"):
        read_volume(files[6])


def test_a_size_that_no_memory_holds(tmp_path: Path) -> None:
    from hyperreg.errors import OutOfMemory

    def huge(one: pydicom.Dataset, number: int) -> None:
        one.Rows = one.Columns = 65535

    write_slices(tmp_path / "a", change=huge)
    with pytest.raises(FileError, match="too short"):
        read_volume(tmp_path / "a")

    def packed(one: pydicom.Dataset, number: int) -> None:
        one.compress(pydicom.uid.RLELossless)
        one.Rows = one.Columns = 65535

    write_slices(tmp_path / "b", change=packed)
    with pytest.raises(OutOfMemory, match="GB of memory"):
        read_volume(tmp_path / "b")


def test_mutated_files_are_read_or_refused_in_words(tmp_path: Path) -> None:
    """Bytes changed at random: whatever comes out is a volume or one of our errors."""
    good = write_enhanced(tmp_path / "good.dcm", scalings=[(2.0, 1.0)] * 12).read_bytes()
    header = good.index((values().transpose(2, 1, 0)[0, 0, :8]).astype("<i2").tobytes())
    rng = np.random.default_rng(17)
    outcomes = set()
    for number in range(150):
        data = bytearray(good)
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(132, header))] = int(rng.integers(256))
        if number % 10 == 0:
            data = data[: int(rng.integers(140, len(data)))]
        path = tmp_path / "bad.dcm"
        path.write_bytes(data)
        try:
            outcomes.add("read" if read_volume(path).array.size else "empty")
        except (FileError, InputError) as error:
            outcomes.add(type(error).__name__ if len(str(error)) > 20 else str(error))
    assert outcomes == {"read", "FileError", "InputError"}
