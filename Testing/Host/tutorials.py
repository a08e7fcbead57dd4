"""Makes docs/tutorial-*.md: the modules clicked through on the sample images, each step with its picture.

    python -m Testing.Host.tutorials [registration] [segmentation]

The names of buttons and the figures in the texts are read from the panel, so that a tutorial says what the module says.
Needs no screen, and some minutes on a CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperreg.sample import SAMPLE
from Testing.Host import screenshots, segmentation_screenshots
from Testing.Host.host import Host, start
from Testing.Host.pictures import shrink

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
SIZE = (1080, 720)
HEADER = "<!-- Made by `python -m Testing.Host.tutorials`: change the script, not this file. -->"


class Tutorial:
    """A page that grows by one step after the other. name: of its file and pictures."""

    def __init__(self, host: Host, name: str, title: str, introduction: str) -> None:
        self._host, self._name = host, name
        self._parts = [HEADER, f"# {title}", introduction]
        self._steps = 0

    def step(self, title: str, *paragraphs: str) -> None:
        """Adds a step, with a picture of the window as it is now."""
        self._steps += 1
        picture = DOCS / "tutorials" / f"{self._name}-{self._steps}.png"
        self._host.screenshot(picture, size=SIZE)
        shrink(picture)
        image = f"![{title}]({picture.relative_to(DOCS)})"
        self._parts += [f"## {self._steps}. {title}", *paragraphs, image]

    def close(self, *paragraphs: str) -> None:
        """Writes the page."""
        self._parts += paragraphs
        path = DOCS / f"tutorial-{self._name}.md"
        path.write_text("\n\n".join(self._parts) + "\n", encoding="utf-8")
        print(path)


def registration(host: Host) -> Any:
    """The registration module on the sample pair."""
    import slicer

    tutorial = Tutorial(
        host,
        "registration",
        "Tutorial: registration in 3D Slicer",
        "Two brain templates come with HyperReg. In this tutorial one is bent onto the other, λ is chosen, and the "
        "result "
        "is kept. It takes five minutes; take your own two volumes afterwards, the steps are the same.",
    )
    host.load(REPOSITORY / "HyperRegSlicer" / "HyperRegSlicer.py")
    host.start_up()
    widget = host.widget("HyperRegSlicer")
    ui, logic = widget.ui, widget.panel.logic
    ui.setupSection.collapsed = False
    ui.sampleButton.click()
    ui.setupSection.collapsed = True
    tutorial.step(
        "Open the module and two volumes",
        "Choose the module *HyperReg*. If its last section says that something is not installed, press "
        f"*{ui.installButton.text}* there, once. Then press *{ui.sampleButton.text}* in the same section, or load "
        "two volumes "
        f"of your own and choose them as *{ui.fixedLabel.text.rstrip(':')}* and *{ui.movingLabel.text.rstrip(':')}*. "
        "They may differ in voxel size, orientation and contrast.",
    )
    register_text = ui.registerButton.text
    ui.registerButton.click()
    host.wait_until(lambda: ui.messageLabel.text or logic.can_keep, screenshots.PATIENCE_S)
    if not logic.can_keep:
        raise RuntimeError(ui.messageLabel.text)
    screenshots.wait_for_best(host, widget)
    tutorial.step(
        f"Press {register_text}",
        "The volumes are aligned linearly first. A first draft follows a moment later, then finer results, all by "
        "themselves; "
        "nothing has to be waited for. The line below the button says what is shown and what is being computed; the "
        "lines below "
        "the slider say how well it matches and what that costs. On the sample pair, at full resolution:",
        _quoted(ui.metricsLabel.text),
    )
    screenshots.move_to(host, widget, 0.9)
    stiff = ui.metricsLabel.text
    tutorial.step(
        "Drag λ",
        f"Left is *{ui.flexibleLabel.text}*, right is *{ui.rigidLabel.text}*. The moving volume bends while you "
        "drag. Here at "
        f"λ = {ui.lambdaSlider.value:.2f}, where it is hardly deformed:",
        _quoted(stiff),
        "There is no right λ for all cases: more freedom matches more detail, of the noise too. Look whether what "
        "moved "
        "could move.",
    )
    screenshots.show_response(host, widget)
    ui.responseSection.collapsed = False
    tutorial.step(
        "Ask the pair itself",
        f"*{ui.responseSection.text}* shows what every λ gives on this pair, as soon as it is measured: the match "
        "and its price. "
        f"A click into the curves goes to that λ; *{ui.useSuggestedButton.text}* goes to the orange line:",
        _quoted(ui.suggestionLabel.text),
    )
    ui.responseSection.collapsed = True
    screenshots.move_to(host, widget, 0.4)
    ui.volumeChangeBox.click()
    host.wait_until(lambda: logic.volume_change.node is not None, screenshots.PATIENCE_S)
    tutorial.step(
        "See where volume changes",
        f"*{ui.volumeChangeBox.text}* colours where the moving volume had to be stretched or squeezed to fit. Strong "
        "colours "
        "in one spot with calm surroundings deserve a look: a lesion, a resection, or too small a λ.",
    )
    ui.volumeChangeBox.click()
    keep_text = ui.keepButton.text
    before = slicer.mrmlScene.GetNumberOfNodes()
    ui.keepButton.click()
    host.process_events()
    if slicer.mrmlScene.GetNumberOfNodes() <= before:
        raise RuntimeError(f"Nothing was kept: {ui.messageLabel.text}")
    tutorial.step(
        f"Press {keep_text}",
        "The resampled volume, the transform and its inverse are in the scene now, under names that hold λ; save "
        "them as you save "
        f"anything. *{ui.resetButton.text}* restores the scene as it was before; what was kept stays.",
    )
    tutorial.close(
        "What else there is: [landmarks, regions of their own λ, areas to leave out, label maps]"
        "(user-guide.md#beyond-the-slider-module-and-browser-app); the same in a browser or on the command line: "
        "[user guide](user-guide.md). For research; not for diagnosis.",
    )
    return widget


def segmentation(host: Host) -> Any:
    """The segmentation module on the fixed image of the sample pair."""
    tutorial = Tutorial(
        host,
        "segmentation",
        "Tutorial: segmentation in 3D Slicer",
        "A brain is segmented by one click, and looked at where the model was in doubt.",
    )
    fixed = next(image for image in SAMPLE if image.role == "fixed")
    widget = segmentation_screenshots.open_module(host, fixed.path)
    ui = widget.ui
    tutorial.step(
        "Choose a volume and a model",
        "Choose the module *HyperReg Segmentation*, and a volume: here the fixed one of the sample pair (*Load "
        "sample pair* of the "
        f"registration module). The model is *{ui.modelCombo.currentText}*; the line below it says what it was made "
        "for, and on "
        "what it was measured.",
    )
    segment_text = ui.segmentButton.text
    segmentation_screenshots.segment(host, widget)
    tutorial.step(
        f"Press {segment_text}",
        "Some seconds later (on a busy computer a minute, as here) the structures lie over the views, each with its "
        "volume. A red sentence says so where a "
        "result is "
        "not plausible: another organ, half a head. Here:",
        _quoted(ui.summaryLabel.text),
    )
    ui.showUncertaintyCheckBox.checked = True
    ui.nextDoubtButton.click()
    tutorial.step(
        "Look where the model was in doubt",
        f"*{ui.showUncertaintyCheckBox.text}* colours where another structure was nearly as likely; "
        f"*{ui.nextDoubtButton.text}* moves the views to the next such place, the largest first. Correct what is "
        "wrong in Slicer's "
        "*Segment Editor*: the volumes follow.",
        _quoted(ui.doubtLabel.text),
    )
    tutorial.close(
        "What else there is: [models of several images, atlases and several readers, models of your own]"
        "(user-guide.md#segmentation-in-3d-slicer). For research; not for diagnosis.",
    )
    return widget


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}  " for line in text.splitlines() if line.strip())


TUTORIALS: dict[str, Callable[[Host], Any]] = {"registration": registration, "segmentation": segmentation}


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if all pages were made and no slot raised."""
    wanted = (sys.argv[1:] if arguments is None else arguments) or list(TUTORIALS)
    host, failed = start(), 0
    for name in wanted:
        failed |= screenshots.end(host, TUTORIALS[name](host))
        host.reset()
    return failed


if __name__ == "__main__":
    sys.exit(main())
