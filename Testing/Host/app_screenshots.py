"""Makes the screenshots of the browser app: python -m Testing.Host.app_screenshots [FIXED MOVING].

Starts `hyperreg view`, registers, drags λ in Chromium and saves what is seen when the quick result is there and
measured.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from hyperreg.segmentation.catalogue import find_model
from Testing.Host.app_page import SCREENSHOTS, app_page, save
from Testing.Host.segmentation_screenshots import sample_head

# Name of the picture -> λ, comparison.
PICTURES = {
    "app-lambda-low": (0.02, "fade"),
    "app-lambda-middle": (0.5, "fade"),
    "app-lambda-high": (0.98, "fade"),
    "app-checkerboard": (0.2, "checkerboard"),
    "app-side-by-side": (0.2, "sideBySide"),
}
SMALL = {"width": 1024, "height": 700}
# The browser's own λ may be ahead of what the views show.
SETTLED = """() => {
  const get = name => window.trame.state.get(name);
  return get("fresh") && Math.abs(get("solved_lam") - get("lam")) < 1e-6;
}"""


def take(page: Any, folder: Path, pictures: dict[str, tuple[float, str]]) -> None:
    """Registers and saves a picture for each entry of `pictures`."""
    page.click(".hyperreg-register")
    page.wait_for_function("window.trame.state.get('phase') === 'live' && window.trame.state.get('fresh')")
    for name, (lam, mode) in pictures.items():
        page.click(f".hyperreg-mode-{mode}")
        drag(page, ".hyperreg-lambda-slider", lam)
        page.wait_for_function(SETTLED)
        save(page, folder / f"{name}.png")
    usual = page.viewport_size
    page.set_viewport_size(SMALL)
    save(page, folder / "app-small-window.png")
    page.set_viewport_size(usual)
    page.click(".hyperreg-mode-fade")
    page.click(".hyperreg-in-3d")
    save(page, folder / "app-3d.png")
    page.click(".hyperreg-in-3d")


def take_tuned(page: Any, folder: Path) -> None:
    """Uses the suggested λ once the response is complete, waits for full resolution, shows the volume change; pictures
    of all."""
    page.wait_for_function("window.trame.state.get('suggested') !== ''")
    if not page.evaluate("window.trame.state.get('suggestion_taken')"):
        page.click(".hyperreg-use-suggested")
        page.wait_for_function("window.trame.state.get('suggestion_taken')")
    page.wait_for_function(SETTLED)
    save(page, folder / "app-response.png")
    page.wait_for_function("window.trame.state.get('stage_text').startsWith('Full resolution')")
    page.wait_for_function(SETTLED)
    save(page, folder / "app-full-resolution.png")
    page.click(".hyperreg-volume-change input")
    page.wait_for_timeout(1000)  # the map comes when nothing has moved for a moment
    save(page, folder / "app-volume-change.png")
    page.click(".hyperreg-volume-change input")


def take_segmentation(page: Any, folder: Path, model: str) -> None:
    """Segments the fixed image with a model; a picture of the result at its first doubtful region."""
    page.click(".hyperreg-panel-segmentation")
    page.click(".hyperreg-segment-model .v-field")
    page.locator(".v-overlay--active .v-list-item", has_text=find_model(model).title).first.click()
    page.wait_for_function(f"window.trame.state.get('segment_model') === '{model}'")
    page.click(".hyperreg-segment")
    page.wait_for_function(
        "window.trame.state.get('segment_rows').length > 0 && !window.trame.state.get('segment_text')"
    )
    page.click(".hyperreg-next-segment-place")
    page.wait_for_function("window.trame.state.get('segment_place') !== ''")
    save(page, folder / "app-segmentation.png")


def drag(page: Any, slider: str, lam: float) -> None:
    """Moves a slider from 0 to 1, or the one in what is selected, with the mouse."""
    thumb = page.locator(slider).locator(".v-slider-thumb").bounding_box()
    track = page.locator(slider).locator(".v-slider-track").bounding_box()
    y = thumb["y"] + thumb["height"] / 2
    page.mouse.move(thumb["x"] + thumb["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(track["x"] + lam * track["width"], y, steps=10)
    page.mouse.up()
    page.wait_for_timeout(500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", type=Path, help="FIXED and MOVING; without them the sample pair")
    parser.add_argument("--model", default=None)
    parser.add_argument("--segment", metavar="MODEL", help="Only the picture of a segmentation with this model")
    parser.add_argument("--output", type=Path, default=SCREENSHOTS)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    model = ["--model", arguments.model] if arguments.model else []
    if arguments.segment:
        with tempfile.TemporaryDirectory() as made:
            images = arguments.images or [sample_head(Path(made) / "head.nii.gz")] * 2
            with app_page(*images, *model) as page:
                take_segmentation(page, arguments.output, arguments.segment)
        return
    with app_page(*arguments.images, *model) as page:
        take(page, arguments.output, PICTURES)
        if not arguments.images:
            take_tuned(page, arguments.output)


if __name__ == "__main__":
    main()
