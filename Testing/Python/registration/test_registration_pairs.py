"""The files of a pair that do not belong together, or lie in another order than one thinks: told or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from cli_pair import PairFiles, write_pair
from dicom_examples import write_image
from pydicom.uid import generate_uid

from hyperreg.errors import InputError
from hyperreg.imaging import dicom
from hyperreg.imaging.dicom import identity, registration_objects, segmentation_objects
from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.segment_files import write_layers
from hyperreg.imaging.streams import same_file
from hyperreg.imaging.structures import Structure, structures_of
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import write_transform
from hyperreg.registration.pairs import Pair, _given_twice, load_pair

NAMES = ("nasion", "left ear", "right ear", "inion")
POINTS = np.array([[0, 80, 10], [-70, 0, 0], [70, 2, 1], [1, -90, 5]], dtype=float)
SHIFT = np.array([[1.0, 0, 0, 4], [0, 1, 0, -3], [0, 0, 1, 6], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> PairFiles:
    """The pair of `cli_pair`, and both images as DICOM series."""
    found = write_pair(tmp_path_factory.mktemp("pair"))
    for image in (found.fixed, found.moving):
        name = image.name.partition(".")[0]
        write_image(image.parent / f"dicom-{name}", read_volume(image), name)
        for file in (image.parent / f"dicom-{name}").iterdir():
            one = pydicom.dcmread(file)
            one.FrameOfReferenceUID = generate_uid(entropy_srcs=[name])
            one.save_as(file)
    return found


@pytest.fixture
def series(files: PairFiles) -> Pair:
    return Pair(files.fixed.parent / "dicom-fixed", files.fixed.parent / "dicom-moving", initial="none")


def fcsv(path: Path, order: list[int], names: tuple[str, ...] = NAMES) -> Path:
    rows = [
        f"{n},{x},{y},{z},0,0,0,1,1,1,0,{names[n]},," for n, (x, y, z) in ((n, POINTS[n] * (-1, -1, 1)) for n in order)
    ]
    head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
    path.write_text(
        head + "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n" + "\n".join(rows)
    )
    return path


def test_landmarks_in_another_order_are_paired_by_name(files: PairFiles, tmp_path: Path) -> None:
    fixed, moving = fcsv(tmp_path / "fixed.fcsv", [0, 1, 2, 3]), fcsv(tmp_path / "moving.fcsv", [2, 0, 3, 1])
    pair = Pair(files.fixed, files.moving, fixed_points=fixed, moving_points=moving)
    loaded = load_pair(pair)
    np.testing.assert_allclose(loaded.landmarks.fixed, POINTS)
    np.testing.assert_allclose(loaded.landmarks.moving, POINTS)
    assert any("in another order: they were paired by name" in text for text in loaded.warnings)
    fcsv(moving, [2, 0, 3, 1], tuple(f"F-{n}" for n in range(4)))  # names that say nothing
    loaded = load_pair(pair)
    np.testing.assert_allclose(loaded.landmarks.moving, POINTS[[2, 0, 3, 1]])
    assert not any("order" in text for text in loaded.warnings)
    (tmp_path / "moving.csv").write_text("label,l,p,s\n" + "".join(
        f"{NAMES[n]},{-POINTS[n][0]},{-POINTS[n][1]},{POINTS[n][2]}\n" for n in (1, 3, 0, 2)
    ))  # fmt: skip
    np.testing.assert_allclose(load_pair(replace(pair, moving_points=tmp_path / "moving.csv")).landmarks.moving, POINTS)


def test_structures_that_only_one_label_map_has_are_told(files: PairFiles, tmp_path: Path) -> None:
    labels = read_structures(files.moving_labels)
    array = labels.flat.array.copy()
    gone = labels.labels[-1]
    array[array == gone] = 0
    write_volume(replace(labels.flat, array=array), tmp_path / "moving.nii.gz")
    pair = Pair(files.fixed, files.moving, files.fixed_labels, tmp_path / "moving.nii.gz")
    (text,) = [text for text in load_pair(pair).warnings if "no overlap can be measured" in text]
    assert f"has Label {gone}." in text
    assert not any(
        "no overlap" in text for text in load_pair(replace(pair, moving_labels=files.moving_labels)).warnings
    )


def test_one_file_for_what_belongs_to_two_images_is_told(files: PairFiles, tmp_path: Path) -> None:
    points = fcsv(tmp_path / "points.fcsv", [0, 1, 2, 3])
    (tmp_path / "link.fcsv").symlink_to(points)
    pair = Pair(files.fixed, files.moving, files.fixed_labels, files.moving_labels)
    twice = replace(pair, fixed_points=points, moving_points=tmp_path / "link.fcsv")
    assert sum("was given for both images" in text for text in load_pair(twice).warnings) == 1
    fcsv(tmp_path / "moving.fcsv", [0, 1, 2, 3])
    once = replace(twice, moving_points=tmp_path / "moving.fcsv")
    assert not any("was given for both images" in text for text in load_pair(once).warnings)


def test_names_that_are_no_file_are_compared_as_names(tmp_path: Path) -> None:
    """The series of a DICOM source."""
    source = tmp_path / "disk"
    source.mkdir()
    assert not same_file(tmp_path / "disk#1", tmp_path / "disk#2")
    assert same_file(tmp_path / "disk#1", tmp_path / "disk#1")
    assert same_file(source, tmp_path / "disk" / ".." / "disk")
    assert _given_twice(tmp_path / "disk#1", tmp_path / "disk#2") == []


def test_a_start_that_mirrors_is_told(files: PairFiles, tmp_path: Path) -> None:
    for name, signs, told in (("turned", (-1, -1, 1, 1), False), ("mirrored", (-1, 1, 1, 1), True)):
        write_transform(Transform((SHIFT @ np.diag(np.array(signs, dtype=float)),)), tmp_path / f"{name}.tfm")
        loaded = load_pair(Pair(files.fixed, files.moving, initial=str(tmp_path / f"{name}.tfm")))
        assert any("mirrors the moving image" in text for text in loaded.warnings) is told


def test_masks_are_read_as_label_maps_are(files: PairFiles, tmp_path: Path) -> None:
    labels = read_structures(files.fixed_labels).flat
    inside = labels.array != 0
    write_volume(replace(labels, array=np.where(inside, 1, -1024).astype(np.int16)), tmp_path / "air.nii.gz")
    loaded = load_pair(Pair(files.fixed, files.moving, fixed_mask=tmp_path / "air.nii.gz"))
    np.testing.assert_array_equal(loaded.fixed_mask.array, inside)
    assert any("-1024" in text for text in loaded.warnings)
    elsewhere = labels.ijk_to_ras.copy()
    elsewhere[2, 3] += 20
    image = nibabel.Nifti1Image(inside.astype(np.uint8), labels.ijk_to_ras)
    image.set_qform(elsewhere, 1)
    nibabel.save(image, tmp_path / "two.nii.gz")
    loaded = load_pair(Pair(files.fixed, files.moving, fixed_mask=tmp_path / "two.nii.gz"))
    assert any("'two.nii.gz' gives two positions" in text for text in loaded.warnings)
    # Segments that overlap lie in layers; a voxel counts where any of them is drawn.
    front, all_ = (labels.array == 3).astype(np.uint8), 2 * inside.astype(np.uint8)
    segments = [Structure(1, 0, "front", (255, 0, 0)), Structure(2, 1, "all", (0, 255, 0))]
    write_layers([replace(labels, array=front), replace(labels, array=all_)], segments, tmp_path / "m.seg.nrrd")
    loaded = load_pair(Pair(files.fixed, files.moving, fixed_mask=tmp_path / "m.seg.nrrd"))
    np.testing.assert_array_equal(loaded.fixed_mask.array, inside)


def test_a_registration_object_of_the_other_direction_is_refused(series: Pair, tmp_path: Path) -> None:
    fixed, moving = (identity.sources_of(dicom.find_series(path)[0]) for path in (series.fixed, series.moving))
    grid = read_volume(series.fixed).grid
    for name, ends in (("right", (fixed, moving)), ("swapped", (moving, fixed))):
        registration_objects.write_registration(Transform((SHIFT,)), *ends, tmp_path / f"{name}.dcm", grid)
    loaded = load_pair(replace(series, initial=str(tmp_path / "right.dcm")))
    np.testing.assert_allclose(loaded.initial.linear, SHIFT, atol=1e-6)
    assert not any("frames of reference" in text for text in loaded.warnings)
    with pytest.raises(InputError, match="the other way round"):
        load_pair(replace(series, initial=str(tmp_path / "swapped.dcm")))
    other = pydicom.dcmread(tmp_path / "right.dcm")
    other.FrameOfReferenceUID = generate_uid()
    other.save_as(tmp_path / "other.dcm")
    warnings = load_pair(replace(series, initial=str(tmp_path / "other.dcm"))).warnings
    assert any("it was made for others" in text for text in warnings)


def test_a_segmentation_object_of_another_frame_of_reference_is_told(
    series: Pair, files: PairFiles, tmp_path: Path
) -> None:
    labels = read_structures(files.fixed_labels)
    sources = identity.sources_of(dicom.find_series(series.fixed)[0])
    path = tmp_path / "labels.dcm"
    segmentation_objects.write_segmentation(
        labels.flat, structures_of(labels.labels, labels.table), sources, path, ("test", "1")
    )
    pair = replace(series, fixed_labels=path)
    assert not any("frames of reference" in text for text in load_pair(pair).warnings)
    one = pydicom.dcmread(path)
    one.FrameOfReferenceUID = generate_uid()
    one.save_as(path)
    assert any("name different frames of reference" in text for text in load_pair(pair).warnings)


def test_a_label_map_without_its_counterpart_is_told(files: PairFiles) -> None:
    told = load_pair(Pair(files.fixed, files.moving, fixed_labels=files.fixed_labels)).warnings
    assert told == ["Only the fixed image has a label map: no overlap is measured."]
    assert load_pair(Pair(files.fixed, files.moving, moving_labels=files.moving_labels)).warnings == []
