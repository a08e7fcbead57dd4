"""Segmentation files: what 3D Slicer's own reader makes of them, and where the voxels lie."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from segmentation_bench import CORE, OBLIQUE, SHELL, centre_of, make_card, truth

from hyperreg.errors import InputError
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.segment_files import check_name, write_segmentation
from hyperreg.imaging.structures import terminology_entry
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.catalogue import SegmentationCard

NAMELESS = {"label": 9, "channel": 3, "name": "Größe 3", "colour": [0, 0, 255]}
LABELS = Volume(truth(OBLIQUE).astype(np.uint8), OBLIQUE.ijk_to_ras, "labels")


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> SegmentationCard:
    output = {"channels": 4, "activation": "softmax"}
    return make_card(tmp_path_factory.mktemp("card"), structures=[SHELL, CORE, NAMELESS], output=output)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".seg.nrrd"])
def test_label_maps_keep_values_and_place(card: SegmentationCard, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"labels{ending}"
    write_segmentation(LABELS, card.structures, path)
    read = read_volume(path)
    assert read.array.dtype == np.uint8
    assert np.array_equal(read.array, LABELS.array)
    assert read.grid.matches(LABELS.grid)
    np.testing.assert_allclose(centre_of(read, 5), centre_of(LABELS, 5), atol=1e-3)


def test_slicer_reads_names_colours_terminology_and_place(card: SegmentationCard, tmp_path: Path) -> None:
    slicer = pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
    vtk = pytest.importorskip("vtk", reason="skipped: slicer-core is not installed")
    numpy_support = pytest.importorskip("vtk.util.numpy_support", reason="skipped: slicer-core is not installed")
    path = tmp_path / "structures.seg.nrrd"
    write_segmentation(LABELS, card.structures, path)
    scene = slicer.vtkMRMLScene()
    node = slicer.vtkMRMLSegmentationNode()
    scene.AddNode(node)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 3
    for index, structure in enumerate(card.structures):
        segment = segmentation.GetNthSegment(index)
        assert segment.GetName() == structure.name
        assert segment.GetLabelValue() == structure.label
        np.testing.assert_allclose(segment.GetColor(), np.array(structure.colour) / 255, atol=1e-5)
        entry = vtk.reference("")
        told = segment.GetTag("TerminologyEntry", entry)
        if structure.terminology is None:
            continue
        assert told
        assert str(entry) == terminology_entry(structure.terminology)
    shell = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(segmentation.GetNthSegmentID(0), shell)
    matrix = vtk.vtkMatrix4x4()
    shell.GetImageToWorldMatrix(matrix)
    to_ras = np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
    low = np.array(shell.GetExtent()[::2])
    scalars = numpy_support.vtk_to_numpy(shell.GetPointData().GetScalars())
    array = scalars.reshape(shell.GetDimensions()[::-1]).transpose(2, 1, 0)
    inside = np.argwhere(array > 0) + low  # Slicer hands out one segment
    assert len(inside) == np.count_nonzero(LABELS.array == 2)
    centre = inside.mean(axis=0) @ to_ras[:3, :3].T + to_ras[:3, 3]
    np.testing.assert_allclose(centre, centre_of(LABELS, 2), atol=1e-2)


def test_slicer_s_terminology_knows_the_entry(card: SegmentationCard) -> None:
    slicer = pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    entry = slicer.vtkSlicerTerminologyEntry()
    terminology = card.structures[0].terminology
    assert terminology is not None
    assert logic.DeserializeTerminologyEntry(terminology_entry(terminology), entry)
    assert entry.GetCategoryObject().GetCodeMeaning() == "Anatomical Structure"
    assert entry.GetTypeObject().GetCodeValue() == "64033007"
    assert entry.GetTypeModifierObject().GetCodeMeaning() == "Right"


def test_codes_are_those_of_slicer_s_own_list(card: SegmentationCard) -> None:
    """The words of the list that Slicer comes with, where it is at hand: a wrong code would name another organ."""
    trame_slicer = pytest.importorskip("trame_slicer", reason="skipped: trame-slicer is not installed")
    folder = Path(trame_slicer.__file__).parent / "resources" / "terminologies"
    text = (folder / "SegmentationCategoryTypeModifier-SlicerGeneralAnatomy.term.json").read_text(encoding="utf-8")
    categories = {c["CodeValue"]: c for c in json.loads(text)["SegmentationCodes"]["Category"]}
    for structure in card.structures:
        if structure.terminology is not None:
            category = categories[structure.terminology.category.value]
            kinds = {kind["CodeValue"]: kind["CodeMeaning"] for kind in category["Type"]}
            assert kinds[structure.terminology.type.value] == structure.terminology.type.meaning


def test_empty_structures_are_written_too(card: SegmentationCard, tmp_path: Path) -> None:
    path = tmp_path / "empty.seg.nrrd"
    write_segmentation(LABELS, card.structures, path)
    image = sitk.ReadImage(str(path))
    assert image.GetMetaData("Segment2_Name") == "Größe 3"
    assert image.GetMetaData("Segment2_Extent") == "0 -1 0 -1 0 -1"
    inside = np.argwhere(LABELS.array == 2)
    ends = np.stack([inside.min(0), inside.max(0)], axis=1).ravel()
    assert image.GetMetaData("Segment0_Extent") == " ".join(map(str, ends))


def test_names_without_a_known_ending_are_refused() -> None:
    with pytest.raises(InputError, match=r"\.seg\.nrrd"):
        check_name(Path("result.txt"))
