"""Atlases in the scene: volumes and label maps of a folder of the subject hierarchy, and their way to files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
import vtk

from hyperreg.errors import HyperRegError, InputError
from hyperreg.fusion.records import AtlasFiles
from hyperreg.imaging.label_grids import pasted
from hyperreg.imaging.volume import Volume
from hyperreg.mrml import geometry, linked, regions
from hyperreg.mrml.fusion.inputs import Numbering
from hyperreg.mrml.segmentation.results import reference_of

# Items of the subject hierarchy that hold others, as Slicer calls them.
FOLDERS = ("Folder", "Study", "Patient")
# Between the names of nested folders, as they are shown and saved.
SEPARATOR = " / "
# What a label map's name may have after the atlas' name: as in a folder on disk, and as Slicer calls segmentations.
ENDING = re.compile(r"[ _-]*(labels?|segmentation|seg)(_[0-9]+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class ScenePairs:
    """pairs: (name, image node, segmentation or label map node). skipped: what belongs to no pair, and why."""

    pairs: list[tuple[str, Any, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def folders(scene: slicer.vtkMRMLScene) -> list[str]:
    """Paths of all folders of the subject hierarchy, parents before what is in them."""
    return list(_folders(scene))


def find_pairs(scene: slicer.vtkMRMLScene, path: str) -> ScenePairs:
    """The atlases in a folder and in the folders in it.

    A segmentation belongs to the volume it was drawn on, if that is there too; else it, or a label map, belongs to the
    one volume whose name begins with its own, but for an ending such as "_labels".
    Raises InputError if there is no such folder, or no pair in it.
    """
    item = _folders(scene).get(path)
    if item is None:
        raise InputError(f"There is no folder '{path}' in the scene (any more). Choose another one.")
    nodes = _nodes_in(scene, item)
    volumes = [node for node in nodes if node.IsA("vtkMRMLScalarVolumeNode") and not node.IsA(regions.LABEL_MAP)]
    found = ScenePairs()
    for node in sorted((n for n in nodes if n.IsA(regions.SEGMENTATION) or n.IsA(regions.LABEL_MAP)), key=_kind):
        volume = _volume_of(node, volumes, found.skipped)
        if volume is not None and any(volume is other for _name, other, _labels in found.pairs):
            found.skipped[node.GetName()] = f"there is another label map of '{volume.GetName()}'."
        elif volume is not None:
            found.pairs.append((_called(volume, volumes), volume, node))
    paired = {volume.GetID() for _name, volume, _labels in found.pairs}
    for volume in volumes:
        if volume.GetID() not in paired:
            reason = "no segmentation or label map in the folder belongs to it."
            found.skipped.setdefault(_called(volume, volumes), reason)
    if not found.pairs:
        raise InputError(
            f"The folder '{path}' holds no atlas: a volume and its segmentation, or its label map NAME_labels. "
            + _reasons(found.skipped)
        )
    return found


def write_pairs(pairs: ScenePairs, folder: Path) -> tuple[list[AtlasFiles], Numbering, dict[str, str]]:
    """Writes the atlases as files for the worker, each in its place in the world, numbered alike by the names of
    segments.

    -> the files; how their labels are numbered; what could not be written or was skipped before, by name, and why.
    Raises InputError if none is left.
    """
    numbering, written, skipped = Numbering(), [], dict(pairs.skipped)
    for index, (name, image_node, label_node) in enumerate(pairs.pairs):
        try:
            if refused := geometry.refusal(image_node, "atlas"):
                raise InputError(refused)
            image = geometry.volume_from_node(image_node, linked.original_parent(image_node))
            labels = numbering.label_map(label_node)
        except HyperRegError as error:
            skipped[name] = str(error)
            continue
        atlas = AtlasFiles(name, folder / f"{index}.nrrd", folder / f"{index}_labels.nrrd")
        _write(image, "vtkMRMLScalarVolumeNode", atlas.image)
        _write(pasted(labels, image.grid), regions.LABEL_MAP, atlas.labels)
        written.append(atlas)
    if not written:
        raise InputError(f"None of the atlases of the scene can be used. {_reasons(skipped)}")
    return written, numbering, skipped


def _folders(scene: slicer.vtkMRMLScene) -> dict[str, int]:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is None:
        return {}
    found: dict[str, int] = {}

    def look(item: int, above: str) -> None:
        inside = vtk.vtkIdList()
        hierarchy.GetItemChildren(item, inside, False)
        for child in (inside.GetId(n) for n in range(inside.GetNumberOfIds())):
            if hierarchy.GetItemLevel(child) in FOLDERS:
                path = above + hierarchy.GetItemName(child)
                found.setdefault(path, child)
                look(child, path + SEPARATOR)

    look(hierarchy.GetSceneItemID(), "")
    return found


def _nodes_in(scene: slicer.vtkMRMLScene, item: int) -> list[Any]:
    hierarchy, inside = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene), vtk.vtkIdList()
    hierarchy.GetItemChildren(item, inside, True)
    found = [hierarchy.GetItemDataNode(inside.GetId(n)) for n in range(inside.GetNumberOfIds())]
    return [node for node in found if node is not None]


def _kind(node: Any) -> int:
    """Segmentations before label maps: they know which volume they belong to."""
    return 0 if node.IsA(regions.SEGMENTATION) else 1


def _folder_of(node: Any) -> str:
    """The name of the folder that a node lies in."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    return str(hierarchy.GetItemName(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))))


def _called(volume: Any, volumes: Sequence[Any]) -> str:
    """The atlas' name: its volume's, with the folder's where others are called the same, as in a folder per patient."""
    name = str(volume.GetName())
    same = [other for other in volumes if other.GetName() == name]
    return name if len(same) == 1 else f"{_folder_of(volume)}{SEPARATOR}{name}"


def _volume_of(node: Any, volumes: Sequence[Any], skipped: dict[str, str]) -> Any:
    """The volume that a segmentation or label map belongs to; None, and why in `skipped`, for none."""
    if node.IsA(regions.SEGMENTATION):
        reference = reference_of(node)
        if any(reference is volume for volume in volumes):
            return reference
    name = ENDING.sub("", node.GetName())
    fitting = [volume for volume in volumes if name and _begins(volume.GetName(), name)]
    beside = [volume for volume in fitting if _folder_of(volume) == _folder_of(node)]
    if len(beside or fitting) == 1:
        return (beside or fitting)[0]
    names = ", ".join(volume.GetName() for volume in beside or fitting)
    skipped[node.GetName()] = (
        f"several volumes begin with '{name}' ({names})."
        if fitting
        else f"no volume in the folder begins with '{name}', and it was drawn on none of them."
    )
    return None


def _begins(image: str, name: str) -> bool:
    return image.startswith(name) and not image[len(name) : len(name) + 1].isalnum()


def _write(volume: Volume, kind: str, path: Path) -> None:
    node = getattr(slicer, kind)()
    geometry.volume_to_node(volume, node)
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(False)
    if not storage.WriteData(node):
        raise InputError(f"'{volume.name}' cannot be written to '{path}'. Is the disk full?")


def _reasons(skipped: dict[str, str]) -> str:
    return " ".join(f"{name}: {reason}" for name, reason in skipped.items())
