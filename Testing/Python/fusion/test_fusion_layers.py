"""Structures that overlap, in layers: fused by name, layer by layer, and read again by HyperReg and 3D Slicer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_pair import run
from imaging_examples import oblique_grid

from hyperreg.imaging.segment_files import read_segments, write_layers
from hyperreg.imaging.structures import Structure
from hyperreg.imaging.volume import Volume

GRID = oblique_grid((14, 12, 10), (1.5, 1.0, 2.0))
ORGAN, TUMOUR = (slice(2, 10), slice(2, 9), slice(2, 8)), (slice(6, 12), slice(3, 8), slice(3, 6))


def box(place: tuple[slice, ...], label: int, grow: int = 0) -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    first, *others = place
    array[(slice(first.start, first.stop + grow), *others)] = label
    return Volume(array, GRID.ijk_to_ras, "layer")


def reader(path: Path, organ: int, tumour: int, grow: int = 0) -> str:
    """A reader's file; the organ is `grow` voxels longer. organ, tumour: their numbers."""
    structures = [Structure(organ, 0, "Organ", (200, 100, 0)), Structure(tumour, 1, "Tumour", (0, 100, 200))]
    write_layers([box(ORGAN, organ, grow), box(TUMOUR, tumour)], structures, path)
    return str(path)


def test_overlapping_structures_are_fused_by_name_in_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        reader(tmp_path / "a.seg.nrrd", 1, 2),
        reader(tmp_path / "b.seg.nrrd", 2, 1),
        reader(tmp_path / "c.seg.nrrd", 7, 9, grow=3),
    ]
    out, report = tmp_path / "out.seg.nrrd", tmp_path / "r.json"
    for order in (files, files[::-1]):
        assert run("fuse", "--labels", *order, "--layers", "--out", str(out), "--report", str(report)) == 0
        found = read_segments(out)
        assert found.grid.matches(GRID)
        by_name = {found.name_of(label): label for label in found.labels}
        drawn = {
            name: np.logical_or.reduce([layer.array == label for layer in found.layers])
            for name, label in by_name.items()
        }
        assert np.array_equal(drawn["Organ"], box(ORGAN, 1).array == 1)  # two of three end there
        assert np.array_equal(drawn["Tumour"], box(TUMOUR, 1).array == 1)
        assert (drawn["Organ"] & drawn["Tumour"]).any()
        assert found.table[by_name["Organ"]].colour == (200, 100, 0)
    figures = json.loads(report.read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in figures["structures"]}
    voxel_ml = float(GRID.spacing.prod()) / 1000
    assert rows["Organ"]["volume_ml"] == pytest.approx(np.count_nonzero(box(ORGAN, 1).array) * voxel_ml)
    dice = {row["name"]: row["dice"] for row in figures["label_maps"]}
    assert dice["a.seg"] == pytest.approx(1)
    # The organ of 8 and 11 voxels: Dice 16 / 19; the tumour the same: 1.
    assert dice["c.seg"] == pytest.approx((16 / 19 + 1) / 2)
    assert figures["disputed_voxels_percent"] == pytest.approx(100 * 3 * 7 * 6 / np.prod(GRID.shape))
    capsys.readouterr()
    assert run("fuse", "--labels", *files, "--out", str(tmp_path / "flat.seg.nrrd")) == 2
    assert "'Organ' and 'Tumour'" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "flat.seg.nrrd").exists()
    assert run("fuse", "--labels", *files, "--layers", "--out", str(tmp_path / "out.nii.gz")) == 2
    assert "overlap" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out.nii.gz").exists()


def test_slicer_reads_the_layers_as_overlapping_segments(tmp_path: Path) -> None:
    slicer = pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
    numpy_support = pytest.importorskip("vtk.util.numpy_support", reason="skipped: slicer-core is not installed")
    path = reader(tmp_path / "a.seg.nrrd", 1, 2)
    scene = slicer.vtkMRMLScene()
    node, storage = slicer.vtkMRMLSegmentationNode(), slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(node)
    scene.AddNode(storage)
    storage.SetFileName(path)
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfLayers() == 2
    for number, (name, place) in enumerate({"Organ": ORGAN, "Tumour": TUMOUR}.items()):
        assert segmentation.GetNthSegment(number).GetName() == name
        image = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(segmentation.GetNthSegmentID(number), image)
        scalars = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        assert np.count_nonzero(scalars) == np.count_nonzero(box(place, 1).array)
