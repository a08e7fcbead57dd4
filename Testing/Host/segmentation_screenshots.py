"""The segmentation module with an image that is really segmented, for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hyperreg.imaging.files import write_volume
from hyperreg.phantom import head_phantom_pair
from Testing.Host.host import Host

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 1800.0


def sample_head(path: Path) -> Path:
    """Writes the sample's fixed head."""
    write_volume(head_phantom_pair().fixed, path)
    return path


def open_module(host: Host, image: Path) -> Any:
    """The module's widget, with a volume chosen and shown."""
    import slicer

    host.load(REPOSITORY / "SegmentationModule" / "SegmentationModule.py")
    host.start_up()
    widget = host.widget("SegmentationModule")
    node = slicer.util.loadVolume(str(image))
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, 1.1 * float(np.percentile(slicer.util.arrayFromVolume(node), 99.5)))
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    middle = [(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)]
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *middle, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    widget.ui.volumeSelector.setCurrentNode(node)
    return widget


def segment(host: Host, widget: Any) -> None:
    """Press the button and wait. Raises RuntimeError with the module's own message if nothing comes of it."""
    ui = widget.ui
    ui.segmentButton.click()
    host.wait_until(lambda: ui.segmentButton.text == "Segment", PATIENCE_S)
    if not ui.summaryLabel.visible:
        raise RuntimeError(ui.messageLabel.text)
