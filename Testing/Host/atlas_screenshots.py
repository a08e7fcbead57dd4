"""Makes the pictures of the section "Atlases": a volume, really segmented by a folder of atlases, while it runs, the
result, a disagreement, an early answer of data parameters.

    python -m Testing.Host.atlas_screenshots [--image FILE --atlases FOLDER] [--method local] [--output FOLDER]

Without files, synthetic heads are atlases of another one. Needs no screen, and minutes on a CPU (less where the
registrations are known already).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from Testing.Host.app_fusion_screenshots import ATLASES, EARLY_STEPS, make_atlases
from Testing.Host.host import start
from Testing.Host.segmentation_screenshots import PATIENCE_S, REPOSITORY, open_module

SIZE = (1500, 1250)


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if the picture was made and no slot raised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="the volume to segment")
    parser.add_argument("--atlases", type=Path, help="a folder of atlases")
    parser.add_argument("--method", default="local", help="vote, staple, local or dp")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "Resources" / "Screenshots")
    options = parser.parse_args(arguments)
    if (options.image is None) != (options.atlases is None):
        parser.error("give both --image and --atlases, or neither")
    options.output = options.output.resolve()
    with tempfile.TemporaryDirectory() as made:
        os.environ.setdefault("HYPERREG_CACHE", str(Path(made) / "cache"))  # so that registrations are seen
        if options.image is None:
            options.image, _ = make_atlases(Path(made))
            # Named from its own folder: the picture shows the name.
            os.chdir(made)
            options.atlases = Path(ATLASES)
        try:
            return take(options)
        finally:
            os.chdir(REPOSITORY)


def take(options: argparse.Namespace) -> int:
    """Runs the section and saves what is seen; returns 0 if no slot raised."""
    host = start()
    widget = open_module(host, options.image)
    ui = widget.ui
    node = ui.volumeSelector.currentNode()
    for name in ("optionsSection", "batchSection", "modelsSection"):
        getattr(ui, name).collapsed = True
    ui.atlasesSection.collapsed = False
    logic = widget.panel.atlases.logic
    ui.atlasTargetsSelector.setCheckState(node, 2)
    ui.atlasFolderEdit.currentPath = str(options.atlases)
    ui.atlasMethodCombo.setCurrentIndex(ui.atlasMethodCombo.findData(options.method))
    ui.show3DCheckBox.checked = False
    ui.atlasRunButton.click()
    host.wait_until(lambda: any(0.2 < news.fraction < 1 for news in logic.atlases) or logic.state == "idle", PATIENCE_S)
    if logic.state != "idle":
        print(host.screenshot(options.output / "segmentation-atlases-progress.png", size=SIZE))
    host.wait_until(lambda: logic.state == "idle", PATIENCE_S)
    ui.atlasUndoButton.click()
    ui.atlasRunButton.click()  # now with what is kept of the registrations, as somebody who tries methods
    host.wait_until(lambda: logic.state == "idle", PATIENCE_S)
    if not ui.atlasResultPanel.visible:
        raise RuntimeError(ui.messageLabel.text)
    print(ui.atlasSummaryLabel.text, ui.messageLabel.text, sep="\n")
    print(host.screenshot(options.output / "segmentation-atlases.png", size=SIZE))
    ui.showDisagreementCheckBox.checked = True
    ui.nextDisagreementButton.click()
    picture = options.output / "segmentation-atlases-disagreement.png"
    print(host.screenshot(picture, size=SIZE), ui.disagreementLabel.text, sep="\n")
    ui.showDisagreementCheckBox.checked = False
    ui.atlasUndoButton.click()
    ui.atlasMethodCombo.setCurrentIndex(ui.atlasMethodCombo.findData("dp"))
    ui.atlasRunButton.click()
    host.wait_until(lambda: learned_steps(logic) >= EARLY_STEPS or logic.state == "idle", PATIENCE_S)
    print(host.screenshot(options.output / "segmentation-atlases-early.png", size=SIZE), ui.earlyLabel.text, sep="\n")
    ui.keepEarlyButton.click()
    host.wait_until(lambda: logic.state == "idle", PATIENCE_S)
    print(ui.atlasSummaryLabel.text)
    print(host.screenshot(options.output / "segmentation-atlases-learned.png", size=SIZE))
    widget.cleanup()
    for error in host.exceptions:
        print(f"exception in a slot: {error!r}", file=sys.stderr)
    return 1 if host.exceptions else 0


def learned_steps(logic: Any) -> int:
    """Of the early answer; 0 without one."""
    return 0 if logic.early is None else int(logic.early.learned.steps)


if __name__ == "__main__":
    sys.exit(main())
