"""Makes the pictures of the segmentation module: an image, really segmented, and a doubtful region of it.

    python -m Testing.Host.segmentation_screenshots [--model NAME] [--image FILE] [--output FOLDER]

Without an image, the sample's fixed head, which is generated. Needs no screen, and minutes on a CPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hyperreg.imaging.files import write_volume
from hyperreg.phantom import head_phantom_pair
from Testing.Host.host import Host, start

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = (1400, 900)
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


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if all pictures were made and no slot raised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model of the catalogue; by default the one the module starts with")
    parser.add_argument("--image", type=Path, help="a volume to segment")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "Resources" / "Screenshots")
    options = parser.parse_args(arguments)
    host = start()
    with tempfile.TemporaryDirectory() as made:
        widget = open_module(host, options.image or sample_head(Path(made) / "head.nii.gz"))
    ui = widget.ui
    if options.model is not None:
        ui.modelCombo.setCurrentIndex(ui.modelCombo.findData(options.model))
    segment(host, widget)
    print(host.screenshot(options.output / "segmentation-module.png", size=SIZE), ui.summaryLabel.text, sep="\n")
    ui.showUncertaintyCheckBox.checked = True
    ui.nextDoubtButton.click()
    print(host.screenshot(options.output / "segmentation-module-doubt.png", size=SIZE), ui.doubtLabel.text, sep="\n")
    widget.cleanup()
    for error in host.exceptions:
        print(f"exception in a slot: {error!r}", file=sys.stderr)
    return 1 if host.exceptions else 0


if __name__ == "__main__":
    sys.exit(main())
