"""Nodes of a scene, whatever they are for: found by class, marked with what made them, taken out again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer

import hyperreg

# Attributes of nodes, saved with the scene: the model that made them, as on its card, and the version of HyperReg.
MODEL_ATTRIBUTE = "HyperReg.model"
MODEL_VERSION_ATTRIBUTE = "HyperReg.modelVersion"
VERSION_ATTRIBUTE = "HyperReg.version"
COLOUR_TABLE = "vtkMRMLColorTableNode"
# What the subject hierarchy calls that level.
STUDY = "Study"


def of_class(scene: slicer.vtkMRMLScene, kind: str) -> list[Any]:
    """The nodes of a class, in the scene's order."""
    return [scene.GetNthNodeByClass(n, kind) for n in range(scene.GetNumberOfNodesByClass(kind))]


def mark(node: slicer.vtkMRMLNode, model: str, model_version: str) -> None:
    """Writes on a node which model and which HyperReg made it."""
    node.SetAttribute(MODEL_ATTRIBUTE, model)
    node.SetAttribute(MODEL_VERSION_ATTRIBUTE, model_version)
    node.SetAttribute(VERSION_ATTRIBUTE, hyperreg.__version__)


def made_by(node: slicer.vtkMRMLNode) -> tuple[str | None, str | None]:
    """The model that made a node, and its version; None, None for a node that no model made."""
    return node.GetAttribute(MODEL_ATTRIBUTE), node.GetAttribute(MODEL_VERSION_ATTRIBUTE)


def put_into_study_of(other: slicer.vtkMRMLNode, node: slicer.vtkMRMLNode) -> None:
    """Puts a node into the study of another one, in the subject hierarchy, if that is of one.

    Slicer's own export to DICOM takes patient and study from there. Not into other folders: they may be a user's
    collection, such as of atlases.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(other.GetScene())
    place = 0 if hierarchy is None else hierarchy.GetItemByDataNode(other)
    if not place:
        return
    parent = hierarchy.GetItemParent(place)
    if hierarchy.GetItemLevel(parent) != STUDY:
        return
    # Slicer makes an item of every new node by itself; slicer-core, without its plugins, does not.
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(parent, node)
    hierarchy.SetItemParent(item, parent)


def add_colour_table(
    scene: slicer.vtkMRMLScene, title: str, colours: Mapping[int, tuple[str, float, float, float, float]]
) -> slicer.vtkMRMLColorTableNode:
    """Adds a colour table of label values. colours: name, red, green, blue and opacity, 0 to 1, by the value."""
    table = scene.AddNewNodeByClass(COLOUR_TABLE, title)
    table.SetTypeToUser()
    table.SetNumberOfColors(max(colours) + 1)
    for value, colour in colours.items():
        table.SetColor(value, *colour)
    table.NamesInitialisedOn()
    return table


def columns_of(table: slicer.vtkMRMLTableNode | None) -> dict[str, list[str]]:
    """The columns of a table, by their titles, as texts; {} without one."""
    if table is None:
        return {}
    rows = range(table.GetNumberOfRows())
    return {
        table.GetColumnName(column): [table.GetCellText(row, column) for row in rows]
        for column in range(table.GetNumberOfColumns())
    }


def remove(scene: slicer.vtkMRMLScene, node: slicer.vtkMRMLNode) -> None:
    """Takes a node out of the scene, with its display nodes, which Slicer leaves there."""
    displays = []
    if node.IsA("vtkMRMLDisplayableNode"):
        displays = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    scene.RemoveNode(node)
    for display in displays:
        if display is not None and scene.IsNodePresent(display):
            scene.RemoveNode(display)
