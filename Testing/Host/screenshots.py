"""Makes the pictures of the Slicer module: the sample pair at several λ, its response and volume change; landmarks and
regions of a generated head.

    python -m Testing.Host.screenshots [--model NAME] [--output FOLDER]

Takes what the module begins with, the solver alone. Needs no screen, and minutes on a CPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hyperreg.imaging.transform import Transform
from hyperreg.phantom import LABEL_NAMES, PhantomPair, head_phantom_pair
from Testing.Host.host import Host, start

REPOSITORY = Path(__file__).resolve().parents[2]
PICTURES = {"flexible": 0.02, "middle": 0.4, "rigid": 0.98}
SIZE = (1400, 900)
LANDMARKS = ("left hippocampus", "right hippocampus", "left caudate", "right caudate", "fourth ventricle")
PATIENCE_S = 1800.0


def register_sample(host: Host, model: str | None) -> Any:
    """Open the module, load the sample pair and register it; return the module's widget.

    Raises RuntimeError with the module's own message if it does not become live.
    """
    host.load(REPOSITORY / "HyperRegSlicer" / "HyperRegSlicer.py")
    host.start_up()
    widget = host.widget("HyperRegSlicer")
    ui = widget.ui
    if model is not None:
        widget.panel.parameters.model = model
    ui.sampleButton.click()
    register(host, widget)
    return widget


def register(host: Host, widget: Any) -> None:
    """Press the button and wait. Raises RuntimeError with the module's own message if it does not become live."""
    ui, logic = widget.ui, widget.panel.logic
    ui.resetButton.click()
    ui.registerButton.click()
    host.wait_until(lambda: ui.messageLabel.text or logic.can_keep, PATIENCE_S)
    if not logic.can_keep:
        raise RuntimeError(ui.messageLabel.text)


def register_head(host: Host, widget: Any) -> PhantomPair:
    """Register the generated head, whose deformation and structures are known."""
    import slicer

    from hyperreg.mrml import geometry

    pair, parameters = head_phantom_pair(), widget.panel.parameters
    for role, kind, parameter in (
        ("fixed", "ScalarVolume", "fixed"),
        ("moving", "ScalarVolume", "moving"),
        ("fixed_labels", "LabelMapVolume", "fixedLabels"),
        ("moving_labels", "LabelMapVolume", "movingLabels"),
    ):
        node = slicer.mrmlScene.AddNewNodeByClass(f"vtkMRML{kind}Node", f"Head {role.replace('_', ' ')}")
        geometry.volume_to_node(getattr(pair, role), node)
        node.CreateDefaultDisplayNodes()
        setattr(parameters, parameter, node)
    register(host, widget)
    return pair


def move_to(host: Host, widget: Any, lam: float) -> None:
    """Move the slider and wait for the best result there and its metrics."""
    widget.ui.lambdaSlider.value = lam
    wait_for_best(host, widget)


def wait_for_best(host: Host, widget: Any) -> None:
    """Wait until what is shown becomes no better, and its metrics are there."""
    logic = widget.panel.logic
    host.wait_until(lambda: logic.can_keep and logic.live.is_final and logic.live.metrics, PATIENCE_S)


def show_response(host: Host, widget: Any) -> None:
    """Wait for the whole response and use the suggested λ."""
    host.wait_until(lambda: widget.panel.logic.live.suggestion is not None, PATIENCE_S)
    widget.ui.useSuggestedButton.click()
    move_to(host, widget, widget.panel.logic.live.suggestion.lam)


def place_landmarks(host: Host, widget: Any, pair: PhantomPair) -> None:
    """Centres of structures of the head, and where its known deformation leads, as point lists that are measured."""
    import slicer

    inside = [pair.fixed_labels.array == label for label in LABEL_NAMES if LABEL_NAMES[label] in LANDMARKS]
    fixed = np.array([pair.fixed.grid.to_ras(np.argwhere(mask).mean(0)) for mask in inside])
    nodes = []
    for name, points in (("Fixed points", fixed), ("Moving points", Transform((pair.field,)).apply(fixed))):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        for point in points:
            node.AddControlPoint(point.tolist())
        nodes.append(node)
    widget.ui.fixedLandmarksSelector.setCurrentNode(nodes[0])
    widget.ui.movingLandmarksSelector.setCurrentNode(nodes[1])
    host.process_events()


def show_volume_change(host: Host, widget: Any, output: Path) -> None:
    """Take the picture of the map of local volume change."""
    widget.ui.volumeChangeBox.click()
    host.wait_until(lambda: widget.panel.logic.volume_change.node is not None, PATIENCE_S)
    print(host.screenshot(output / "slicer-volume-change.png", size=SIZE))
    widget.ui.volumeChangeBox.click()


def show_landmarks(host: Host, widget: Any, output: Path, pair: PhantomPair) -> None:
    """Place landmarks and take their picture."""
    place_landmarks(host, widget, pair)
    ui = widget.ui
    # The sections above fold away: theirs would push the landmarks out of the picture.
    ui.responseSection.collapsed = ui.compareSection.collapsed = True
    ui.landmarksSection.collapsed = False
    print(host.screenshot(output / "slicer-landmarks.png", size=SIZE), ui.metricsLabel.text, sep="\n")
    print(ui.landmarksNoteLabel.text)


def end(host: Host, widget: Any) -> int:
    """Return 0 if no slot raised."""
    widget.cleanup()
    for error in host.exceptions:
        print(f"exception in a slot: {error!r}", file=sys.stderr)
    return 1 if host.exceptions else 0


def give_regions(host: Host, widget: Any, lambdas: dict[int, float]) -> None:
    """Give rows of the head's own label map a λ each."""
    import qt

    ui = widget.ui
    ui.regionsSelector.setCurrentNode(widget.panel.parameters.fixedLabels)
    for row, lam in lambdas.items():
        ui.regionsTable.item(row, 0).setCheckState(qt.Qt.Checked)
        ui.regionsTable.cellWidget(row, 1).setValue(lam)
    wait_for_best(host, widget)


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if all pictures were made and no slot raised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model of the catalogue; by default the one the module starts with")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "Resources" / "Screenshots")
    parser.add_argument("--only-landmarks", action="store_true", help="that picture alone")
    options = parser.parse_args(arguments)
    host = start()
    widget = register_sample(host, options.model)
    ui = widget.ui
    if options.only_landmarks:
        pair = register_head(host, widget)
        move_to(host, widget, PICTURES["middle"])
        show_landmarks(host, widget, options.output, pair)
        return end(host, widget)
    ui.compareSection.collapsed = False
    ui.fadeSlider.value = 0.5
    for name, lam in PICTURES.items():
        move_to(host, widget, lam)
        print(host.screenshot(options.output / f"slicer-lambda-{name}.png", size=SIZE), ui.metricsLabel.text, sep="\n")
    ui.comparisonCombo.currentIndex = ui.comparisonCombo.findText("Checkerboard")
    move_to(host, widget, PICTURES["middle"])
    print(host.screenshot(options.output / "slicer-checkerboard.png", size=SIZE))
    ui.comparisonCombo.currentIndex = 0
    ui.compareSection.collapsed = True
    show_response(host, widget)
    print(host.screenshot(options.output / "slicer-response.png", size=SIZE), ui.suggestionLabel.text, sep="\n")
    show_volume_change(host, widget, options.output)
    pair = register_head(host, widget)
    move_to(host, widget, PICTURES["middle"])
    show_landmarks(host, widget, options.output, pair)
    ui.landmarksSection.collapsed = True
    ui.regionsSection.collapsed = False
    give_regions(host, widget, {0: 0.9, 2: 0.1})
    print(host.screenshot(options.output / "slicer-regions.png", size=SIZE), ui.metricsLabel.text, sep="\n")
    return end(host, widget)


if __name__ == "__main__":
    sys.exit(main())
