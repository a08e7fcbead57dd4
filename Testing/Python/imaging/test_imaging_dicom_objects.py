"""DICOM objects that are written: segmentation, registration, resampled series; read back by pydicom and highdicom."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_conformance import missing_attributes
from dicom_examples import DIRECTION, SHAPE, values, write_enhanced, write_slices
from imaging_examples import affine, oblique_grid, smooth_field
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid

from hyperreg.errors import InputError, OutOfMemory
from hyperreg.imaging import dicom, segment_files
from hyperreg.imaging.dicom import derived, identity, registration_objects, segmentation_objects
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.label_grids import pasted
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.structures import compared
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Volume
from hyperreg.segmentation.catalogue import Code, Structure, Terminology

ANATOMY = Code("SCT", "123037004", "Anatomical Structure")
STRUCTURES = (
    Structure(4, 0, "Liver", (221, 130, 101), Terminology(ANATOMY, Code("SCT", "10200004", "Liver"))),
    Structure(17, 1, "Something new", (0, 200, 0)),
    Structure(
        5, 2, "Left kidney", (0, 0, 200),
        Terminology(ANATOMY, Code("SCT", "64033007", "Kidney"), Code("SCT", "7771000", "Left")),
    ),
)  # fmt: skip
ALGORITHM = ("some-model", "1.2.0")
PERSONAL = ("Doe", "PAT4711X", "19700102", "Roe", "A1", "20260304")


def _sources(folder: Path, leave_out: bool = False, **how) -> list[pydicom.Dataset]:
    write_slices(folder, **how)
    series, _ = dicom.find_series(folder)
    return identity.sources_of(series, leave_out)


def _label_map(volume: Volume) -> Volume:
    labels = np.zeros(volume.shape, dtype=np.int16)
    labels[3:8, 4:9, 2:7] = 17
    labels[10:15, 2:5, 5:9] = 4
    return Volume(labels, volume.ijk_to_ras, "labels")


def _no_personal_data(file: Path) -> bool:
    data = file.read_bytes()
    return not any(text.encode() in data for text in PERSONAL)


# --- segmentation ---


def test_a_segmentation_agrees_voxel_by_voxel_and_in_mm(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "ct")
    labels = _label_map(read_volume(tmp_path / "ct"))
    path = tmp_path / "segmentation.dcm"
    segmentation_objects.write_segmentation(labels, STRUCTURES, sources, path, ALGORITHM, {4: "About 3 ml."})
    read = read_label_map(path)
    expected = {1: 4, 2: 17}
    for number, label in expected.items():
        ours = labels.grid.to_ras(np.argwhere(labels.array == label))
        theirs = read.grid.to_ras(np.argwhere(read.array == number))
        np.testing.assert_allclose(theirs, ours, atol=1e-3)
    assert set(np.unique(read.array)) == {0, 1, 2}


def test_highdicom_reads_names_codes_references_and_algorithm(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "ct")
    path = tmp_path / "segmentation.dcm"
    labels = _label_map(read_volume(tmp_path / "ct"))
    texts = {4: "About 3 ml."}
    segmentation_objects.write_segmentation(labels, STRUCTURES, sources, path, ALGORITHM, texts, by_hand={17})
    read = highdicom.seg.segread(path)
    described = [read.get_segment_description(number) for number in read.segment_numbers]
    assert [d.segment_label for d in described] == ["Liver", "Something new", "Left kidney"]
    assert [d.segmented_property_type.meaning for d in described] == ["Liver", "Tissue", "Kidney"]
    assert described[2].SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[
        0
    ].CodeMeaning == ("Left")
    assert [d.SegmentDescription for d in described[:2]] == ["Label 4. About 3 ml.", "Label 17. Corrected by hand."]
    assert [d.SegmentAlgorithmType for d in described[:2]] == ["AUTOMATIC", "SEMIAUTOMATIC"]
    (algorithm,) = described[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ALGORITHM
    red, green, blue = described[0].RecommendedDisplayCIELabValue
    assert (red, green, blue) != (0, 32768, 32768)
    assert {uid for _, _, uid in read.get_source_image_uids()} == {source.SOPInstanceUID for source in sources}
    assert read.ContentQualification == "RESEARCH"
    assert (str(read.PatientName), read.PatientID, read.StudyInstanceUID) == (
        "Doe^Jane", "PAT4711X", sources[0].StudyInstanceUID,
    )  # fmt: skip
    assert read.SeriesInstanceUID != sources[0].SeriesInstanceUID


def test_names_colours_and_codes_come_back(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "ct")
    path = tmp_path / "segmentation.dcm"
    labels = _label_map(read_volume(tmp_path / "ct"))
    segmentation_objects.write_segmentation(labels, STRUCTURES, sources, path, ALGORITHM)
    read = read_structures(path)
    assert [read.name_of(label) for label in read.labels] == ["Liver", "Something new"]
    for number, structure in enumerate(STRUCTURES, 1):
        meaning = read.table[number]
        assert meaning.name == structure.name
        assert np.abs(np.array(meaning.colour) - structure.colour).max() <= 2
        if structure.terminology is not None:
            assert meaning.terminology == structure.terminology


def test_a_segmentation_object_and_a_file_of_other_numbers_are_compared_by_name(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "ct")
    labels = _label_map(read_volume(tmp_path / "ct"))
    segmentation_objects.write_segmentation(labels, STRUCTURES, sources, tmp_path / "a.dcm", ALGORITHM)
    segment_files.write_segmentation(labels, STRUCTURES, tmp_path / "a.seg.nrrd")
    one, other, table, texts = compared(*(read_structures(tmp_path / name) for name in ("a.dcm", "a.seg.nrrd")))
    whole = pasted(one.flat, labels.grid)  # frames without labels are not in the object
    assert whole.grid.matches(labels.grid)
    np.testing.assert_array_equal(whole.array, other.flat.array)
    assert [table[number].name for number in one.labels] == [table[number].name for number in other.labels]
    assert any("matched by name" in text for text in texts)


def test_several_segmentation_objects_of_one_series_are_not_one_label_map(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "ct")
    labels = _label_map(read_volume(tmp_path / "ct"))
    (tmp_path / "seg").mkdir()
    path = tmp_path / "seg" / "a.dcm"
    segmentation_objects.write_segmentation(labels, STRUCTURES, sources, path, ALGORITHM)
    assert read_structures(tmp_path / "seg").labels == [1, 2]  # the folder of one
    second = pydicom.dcmread(path)
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    second.save_as(tmp_path / "seg" / "b.dcm")
    with pytest.raises(InputError, match=r"holds 2 segmentation objects.*such as 'a\.dcm'"):
        read_structures(tmp_path / "seg")


def test_each_frame_of_a_segmentation_refers_to_the_slice_in_its_place(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "ct", places=[5, 3, 0, 1, 2, 4, 6, 7, 11, 10, 9, 8])
    path = tmp_path / "segmentation.dcm"
    labels = _label_map(read_volume(tmp_path / "ct"))
    segmentation_objects.write_segmentation(labels, STRUCTURES, sources, path, ALGORITHM)
    where = {source.SOPInstanceUID: np.array(source.ImagePositionPatient, dtype=float) for source in sources}
    read = pydicom.dcmread(path)
    for group in read.PerFrameFunctionalGroupsSequence:
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        own = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        np.testing.assert_allclose(own, where[image.ReferencedSOPInstanceUID], atol=1e-3)


def test_a_segmentation_of_a_multi_frame_image_and_an_empty_one(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "mr.dcm")
    series, _ = dicom.find_series(path)
    labels = _label_map(read_volume(path))
    for array in (labels.array, np.zeros_like(labels.array)):
        target = tmp_path / "segmentation.dcm"
        segmentation_objects.write_segmentation(
            Volume(array, labels.ijk_to_ras), STRUCTURES, identity.sources_of(series), target, ALGORITHM
        )
        assert np.count_nonzero(read_label_map(target).array) == np.count_nonzero(array)


def test_a_segmentation_with_frames_a_kilometre_apart(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "ct")
    path = tmp_path / "segmentation.dcm"
    labels = _label_map(read_volume(tmp_path / "ct"))
    segmentation_objects.write_segmentation(labels, STRUCTURES, sources, path, ALGORITHM)
    one = pydicom.dcmread(path)
    last = one.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
    start = np.array(last.ImagePositionPatient, dtype=float)
    last.ImagePositionPatient = [f"{x:.6f}" for x in start + 2.5 * 4e8 * DIRECTION[:, 2]]
    one.save_as(path)
    with pytest.raises((OutOfMemory, InputError), match=r"GB of memory|no evenly spaced"):
        read_label_map(path)


def test_a_label_that_is_no_structure_is_refused(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "ct")
    labels = _label_map(read_volume(tmp_path / "ct"))
    with pytest.raises(InputError, match=r"no structure: \[4\]"):
        segmentation_objects.write_segmentation(labels, STRUCTURES[1:], sources, tmp_path / "x.dcm", ALGORITHM)


def test_the_patient_can_be_left_out(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "ct", leave_out=True)
    volume = read_volume(tmp_path / "ct")
    segmentation_objects.write_segmentation(
        _label_map(volume), STRUCTURES, sources, tmp_path / "segmentation.dcm", ALGORITHM
    )
    registration_objects.write_registration(
        Transform((np.eye(4),)), sources, sources, tmp_path / "registration.dcm", volume.grid
    )
    files = derived.write_series(volume, sources, sources, tmp_path, "by a test", True)
    for path in (tmp_path / "segmentation.dcm", tmp_path / "registration.dcm", *files):
        assert _no_personal_data(path), path
        one = pydicom.dcmread(path)
        assert one.PatientIdentityRemoved == "YES"
        assert (one.PatientName, one.PatientID) == ("", "")
        assert one.StudyInstanceUID == sources[0].StudyInstanceUID
    assert not _no_personal_data(next((tmp_path / "ct").iterdir()))


def test_images_that_objects_cannot_refer_to(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no FrameOfReferenceUID"):
        _sources(tmp_path / "ct", FrameOfReferenceUID=None)


# --- registration ---


def _pair(tmp_path: Path) -> tuple[list[pydicom.Dataset], list[pydicom.Dataset]]:
    fixed = _sources(tmp_path / "fixed", series="fixed")
    moving = _sources(
        tmp_path / "moving", series="moving", FrameOfReferenceUID=generate_uid(), StudyInstanceUID=generate_uid()
    )
    return fixed, moving


def _points(grid) -> np.ndarray:
    """RAS mm of 400 places inside a grid, not at voxel centres."""
    rng = np.random.default_rng(5)
    return grid.to_ras(rng.uniform(0.2, np.array(grid.shape) - 1.2, (400, 3)))


def _by_the_standard(item: pydicom.Dataset, points: np.ndarray) -> np.ndarray:
    """PS3.3 C.20.3.1.1, written down once more: LPS points of the Registered to those of the Source frame."""
    grid = item.DeformableRegistrationGridSequence[0]
    shape = np.array(grid.GridDimensions)
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(shape[2], shape[1], shape[0], 3)
    row, column = np.array(grid.ImageOrientationPatient, dtype=float).reshape(2, 3)
    axes = np.stack([row, column, np.cross(row, column)])
    index = (points - np.array(grid.ImagePositionPatient, dtype=float)) @ axes.T / np.array(grid.GridResolution)
    low = np.floor(index).astype(int)
    offset = np.zeros_like(points)
    for corner in np.ndindex(2, 2, 2):
        at = low + corner
        weight = np.where(corner, index - low, 1 - (index - low)).prod(axis=1)
        offset += weight[:, None] * vectors[at[:, 2], at[:, 1], at[:, 0]]

    def matrix(sequence: pydicom.Sequence) -> np.ndarray:
        return np.array(sequence[0].FrameOfReferenceTransformationMatrix, dtype=float).reshape(4, 4)

    pre, post = (matrix(item[f"{when}DeformationMatrixRegistrationSequence"].value) for when in ("Pre", "Post"))
    moved = points @ pre[:3, :3].T + pre[:3, 3] + offset
    return moved @ post[:3, :3].T + post[:3, 3]


@pytest.mark.parametrize("left_handed", [False, True])
def test_a_deformation_maps_the_same_points_by_the_standards_own_formula(tmp_path: Path, left_handed: bool) -> None:
    fixed, moving = _pair(tmp_path)
    grid = oblique_grid() if left_handed else read_volume(tmp_path / "fixed").grid
    assert (np.linalg.det(grid.ijk_to_ras[:3, :3]) < 0) == left_handed
    transform = Transform((smooth_field(grid), affine(12, (1, 0, 2), (5, -9, 3), (1.1, 0.95, 1.0))))
    path = tmp_path / "registration.dcm"
    registration_objects.write_registration(transform, fixed, moving, path, grid, "λ 0.3")
    points = _points(grid)
    expected = transform.apply(points)
    read = pydicom.dcmread(path)
    (item,) = read.DeformableRegistrationSequence
    flip = np.array([-1, -1, 1])
    np.testing.assert_allclose(_by_the_standard(item, points * flip) * flip, expected, atol=0.01)
    np.testing.assert_allclose(registration_objects.read_registration(path).apply(points), expected, atol=0.01)
    assert np.abs(expected - points).max() > 3
    assert read.FrameOfReferenceUID == fixed[0].FrameOfReferenceUID
    assert item.SourceFrameOfReferenceUID == moving[0].FrameOfReferenceUID != read.FrameOfReferenceUID
    assert len(item.ReferencedImageSequence) == SHAPE[2]
    assert item.PostDeformationMatrixRegistrationSequence[0].FrameOfReferenceTransformationMatrixType == "AFFINE"
    assert read.ReferencedSeriesSequence[0].SeriesInstanceUID == fixed[0].SeriesInstanceUID
    (other,) = read.StudiesContainingOtherReferencedInstancesSequence
    assert other.StudyInstanceUID == moving[0].StudyInstanceUID


def test_a_linear_registration_maps_moving_to_fixed(tmp_path: Path) -> None:
    fixed, moving = _pair(tmp_path)
    grid = read_volume(tmp_path / "fixed").grid
    transform = Transform((affine(30, (1, 2, 3), (8, -4, 2)),))
    path = tmp_path / "registration.dcm"
    registration_objects.write_registration(transform, fixed, moving, path, grid)
    read = pydicom.dcmread(path)
    own, other = read.RegistrationSequence
    assert own.FrameOfReferenceUID == read.FrameOfReferenceUID == fixed[0].FrameOfReferenceUID
    assert other.FrameOfReferenceUID == moving[0].FrameOfReferenceUID
    (step,) = other.MatrixRegistrationSequence[0].MatrixSequence
    assert step.FrameOfReferenceTransformationMatrixType == "RIGID"
    matrix = np.array(step.FrameOfReferenceTransformationMatrix, dtype=float).reshape(4, 4)
    points = _points(grid)
    flip = np.array([-1, -1, 1])
    in_moving = transform.apply(points) * flip
    np.testing.assert_allclose((in_moving @ matrix[:3, :3].T + matrix[:3, 3]) * flip, points, atol=1e-6)
    back = registration_objects.read_registration(path)
    np.testing.assert_allclose(back.apply(points), transform.apply(points), atol=1e-6)


def test_a_chain_that_is_no_field_and_matrix_is_sampled(tmp_path: Path) -> None:
    fixed, moving = _pair(tmp_path)
    grid = read_volume(tmp_path / "fixed").grid
    transform = Transform((affine(2, (0, 0, 1), (1, 0, 0)), smooth_field(grid, 2.0)))
    path = tmp_path / "registration.dcm"
    registration_objects.write_registration(transform, fixed, moving, path, grid)
    points = grid.to_ras(np.argwhere(np.ones(grid.shape))[::7])
    read = registration_objects.read_registration(path)
    np.testing.assert_allclose(read.apply(points), transform.apply(points), atol=0.01)


def test_a_foreign_object_with_a_matrix_before_the_deformation(tmp_path: Path) -> None:
    fixed, moving = _pair(tmp_path)
    grid = read_volume(tmp_path / "fixed").grid
    path = tmp_path / "registration.dcm"
    registration_objects.write_registration(Transform((smooth_field(grid),)), fixed, moving, path, grid)
    read = pydicom.dcmread(path)
    pre = affine(20, (3, 1, 0), (4, 5, 6), (1.2, 1, 1))
    item = read.DeformableRegistrationSequence[0]
    step = item.PreDeformationMatrixRegistrationSequence[0]
    step.FrameOfReferenceTransformationMatrix = [f"{x:.10f}" for x in pre.ravel()]
    read.save_as(path)
    points = _points(grid)
    flip = np.array([-1, -1, 1])
    expected = _by_the_standard(item, points * flip) * flip
    np.testing.assert_allclose(registration_objects.read_registration(path).apply(points), expected, atol=0.01)


def test_registrations_that_are_refused(tmp_path: Path) -> None:
    fixed, moving = _pair(tmp_path)
    grid = read_volume(tmp_path / "fixed").grid
    path = tmp_path / "registration.dcm"
    field = smooth_field(grid)
    registration_objects.write_registration(Transform((field,)), fixed, moving, path, grid)
    good = pydicom.dcmread(path)
    item = good.DeformableRegistrationSequence[0]
    good.DeformableRegistrationSequence = [item, item]
    good.save_as(path)
    with pytest.raises(InputError, match="2 registrations"):
        registration_objects.read_registration(path)
    undefined = field.array.copy()
    undefined[:, 3, 4, 5] = np.nan
    nowhere = DisplacementField(undefined, grid.ijk_to_ras)
    registration_objects.write_registration(Transform((nowhere,)), fixed, moving, path, grid)
    with pytest.raises(InputError, match="undefined"):
        registration_objects.read_registration(path)


# --- resampled series ---


@pytest.mark.parametrize("left_handed", [False, True])
def test_a_resampled_series_lies_where_the_volume_does(tmp_path: Path, left_handed: bool) -> None:
    fixed, moving = _pair(tmp_path)
    volume = read_volume(tmp_path / "fixed")
    array, place = volume.array + np.float32(0.4), np.array(volume.ijk_to_ras)
    if left_handed:
        array = array[:, :, ::-1]
        place[:3, 3] += place[:3, 2] * (array.shape[2] - 1)
        place[:3, 2] *= -1
    out = tmp_path / "out"
    out.mkdir()
    derived.write_series(Volume(array, place), fixed, moving, out, "by a test", whole_numbers=True)
    read = read_volume(out)
    np.testing.assert_array_equal(read.array, volume.array)
    np.testing.assert_allclose(read.ijk_to_ras, volume.ijk_to_ras, atol=1e-5)
    one = pydicom.dcmread(out / "0001.dcm")
    assert one.FrameOfReferenceUID == fixed[0].FrameOfReferenceUID
    assert one.StudyInstanceUID == moving[0].StudyInstanceUID
    assert one.ImageType[0] == "DERIVED"
    assert one.SourceImageSequence[3].ReferencedSOPInstanceUID == moving[3].SOPInstanceUID
    np.testing.assert_allclose(np.array(one.ImageOrientationPatient, dtype=float)[:3], DIRECTION[:, 0], atol=1e-6)


@pytest.mark.parametrize(("sop_class", "modality"), [(MRImageStorage, "MR"), (CTImageStorage, "CT")])
def test_values_that_are_no_whole_numbers_keep_four_digits(tmp_path: Path, sop_class: str, modality: str) -> None:
    moving = _sources(tmp_path / "moving", sop_class=sop_class, Modality=modality)
    volume = read_volume(tmp_path / "moving")
    array = (values() / 997).astype(np.float32)
    out = tmp_path / "out"
    out.mkdir()
    derived.write_series(Volume(array, volume.ijk_to_ras), moving, moving, out, "by a test", whole_numbers=False)
    np.testing.assert_allclose(read_volume(out).array, array, atol=float(array.max()) / 60000)
    assert pydicom.dcmread(out / "0001.dcm").SOPClassUID == sop_class


def test_a_modality_that_cannot_be_written(tmp_path: Path) -> None:
    moving = _sources(tmp_path / "moving", Modality="NM")
    with pytest.raises(InputError, match="modality 'NM'"):
        derived.write_series(read_volume(tmp_path / "moving"), moving, moving, tmp_path, "", True)


# --- what the standard demands ---


@pytest.mark.parametrize("leave_out", [False, True])
def test_objects_have_all_that_the_standard_demands(tmp_path: Path, leave_out: bool) -> None:
    kinds = {"CT": CTImageStorage, "MR": MRImageStorage}
    field = smooth_field(oblique_grid())
    for modality, sop_class in kinds.items():
        folder = tmp_path / modality
        sources = _sources(folder / "in", leave_out, sop_class=sop_class, Modality=modality)
        volume = read_volume(folder / "in")
        files = derived.write_series(volume, sources, sources, folder, "by a test", True)[:1]
        for name, transform in (("linear", Transform((np.eye(4),))), ("field", Transform((field,)))):
            files.append(folder / f"{name}.dcm")
            registration_objects.write_registration(transform, sources, sources, files[-1], volume.grid)
        files.append(folder / "segmentation.dcm")
        segmentation_objects.write_segmentation(_label_map(volume), STRUCTURES, sources, files[-1], ALGORITHM)
        for file in files:
            assert missing_attributes(pydicom.dcmread(file)) == [], file


def test_what_is_missing_would_be_found(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "ct")
    path = tmp_path / "registration.dcm"
    registration_objects.write_registration(Transform((np.eye(4),)), sources, sources, path, oblique_grid())
    one = pydicom.dcmread(path)
    del one.ContentLabel
    one.RegistrationSequence[0].MatrixRegistrationSequence[0].MatrixSequence[
        0
    ].FrameOfReferenceTransformationMatrix = None
    found = " ".join(missing_attributes(one))
    assert "ContentLabel" in found
    assert "MatrixSequence/FrameOfReferenceTransformationMatrix" in found
