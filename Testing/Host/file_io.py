"""slicer.app.coreIOManager(): loading and saving through the real MRML storage nodes and module logics."""

from __future__ import annotations

import os
from typing import Any

import slicer
from PySide6 import QtCore

from .members import invokable

_TYPES = {
    "VolumeFile": (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz"),
    "TransformFile": (".h5", ".tfm", ".txt", ".mat"),
    "SegmentationFile": (".seg.nrrd", ".seg.vtm"),
    "MarkupsFile": (".mrk.json", ".fcsv"),
    "ModelFile": (".vtk", ".vtp", ".ply", ".stl", ".obj"),
    "SceneFile": (".mrml", ".mrb"),
}
_CLASSES = {
    "TransformFile": ("vtkMRMLTransformStorageNode", "vtkMRMLTransformNode"),
    "SegmentationFile": ("vtkMRMLSegmentationStorageNode", "vtkMRMLSegmentationNode"),
    "MarkupsFile": ("vtkMRMLMarkupsJsonStorageNode", "vtkMRMLMarkupsFiducialNode"),
    "ModelFile": ("vtkMRMLModelStorageNode", "vtkMRMLModelNode"),
}


class qSlicerCoreIOManager(QtCore.QObject):  # noqa: N801 (C++ name)
    """Loads and saves nodes."""

    _meta_object_only = True
    newFileLoaded = QtCore.Signal("QVariantMap")

    @invokable
    def fileType(self, name: str) -> str:
        """Return the kind of a file by its name."""
        ordered = sorted(_TYPES.items(), key=lambda item: item[0] != "SegmentationFile")
        return next((kind for kind, endings in ordered if str(name).lower().endswith(endings)), "NoFile")

    @invokable
    def fileWriterFileType(self, node: Any, _name: str = "") -> str:
        """Return the kind of file a node is written to."""
        return "NodeFile"

    @invokable
    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any = None, messages: Any = None) -> bool:
        """Load a file. Return whether that worked."""
        path = str(properties["fileName"])
        node = None
        if os.path.isfile(path):
            if kind == "SceneFile":
                return self._load_scene(path, bool(properties.get("clear", False)))
            node = self._load(kind, path, properties)
        if node is not None and loaded is not None:
            loaded.AddItem(node)
        elif node is None and messages is not None:
            messages.AddMessage(slicer.vtkMRMLMessageCollection().GetClassName() and 0x10, f"Can not load {path}")
        return node is not None

    def _load(self, kind: str, path: str, properties: dict[str, Any]) -> Any:
        name = properties.get("name") or os.path.basename(path).split(".")[0]
        if kind == "VolumeFile":
            logic = slicer.app.moduleLogic("Volumes")
            options = 1 if properties.get("labelmap") else 0
            node = logic.AddArchetypeVolume(path, name, options)
            display = node.GetDisplayNode() if node is not None else None
            if display is not None and display.GetColorNode() is None:  # Slicer's colour logic gives one
                display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
            return node
        if kind not in _CLASSES:
            return None
        storage_class, node_class = _CLASSES[kind]
        scene = slicer.mrmlScene
        storage = scene.CreateNodeByClass(storage_class)
        storage.UnRegister(None)
        storage.SetFileName(path)
        scene.AddNode(storage)
        node = scene.AddNewNodeByClass(node_class, name)
        if not storage.ReadData(node):
            scene.RemoveNode(node)
            scene.RemoveNode(storage)
            return None
        node.SetAndObserveStorageNodeID(storage.GetID())
        return node

    def _load_scene(self, path: str, clear: bool) -> bool:
        scene = slicer.mrmlScene
        if path.endswith(".mrb"):
            return bool(scene.ReadFromMRB(path, clear))
        scene.SetURL(path)
        return bool(scene.Connect() if clear else scene.Import())

    @invokable
    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any = None) -> bool:
        """Save a node or the scene. Return whether that worked."""
        path = str(properties["fileName"])
        scene = slicer.mrmlScene
        if kind == "SceneFile":
            if path.endswith(".mrb"):
                return bool(scene.WriteToMRB(path))
            if path.endswith(".mrml"):
                scene.SetURL(path)
                return bool(scene.Commit(path))
            os.makedirs(path, exist_ok=True)
            return bool(slicer.app.applicationLogic().SaveSceneToSlicerDataBundleDirectory(path, None))
        node = scene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        return bool(storage.WriteData(node))
