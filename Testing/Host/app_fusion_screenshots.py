"""Makes the screenshots of the browser app's panel of atlases: python -m Testing.Host.app_fusion_screenshots.

Synthetic heads with their label maps are the atlases of the app's own sample head, in the real worker.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from hyperreg.imaging.files import write_volume
from hyperreg.phantom import LABEL_NAMES, head_phantom_pair
from Testing.Host.app_page import SCREENSHOTS, app_page, save

SHAPE = (80, 100, 80)
# Seeds of the heads; the pair of the first one is open in the app.
SEEDS = (1, 2, 3)
# FreeSurfer's colours, by which people know these structures; both sides have the same.
COLOURS = {
    "cerebral white matter": (245, 245, 245),
    "cerebral cortex": (205, 62, 78),
    "lateral ventricle": (120, 18, 134),
    "cerebellar white matter": (220, 248, 164),
    "cerebellar cortex": (230, 148, 34),
    "thalamus": (0, 118, 14),
    "caudate": (122, 186, 220),
    "putamen": (236, 13, 176),
    "pallidum": (12, 48, 255),
    "third ventricle": (204, 182, 142),
    "fourth ventricle": (42, 204, 164),
    "brain stem": (119, 159, 176),
    "hippocampus": (220, 216, 20),
    "cerebrospinal fluid": (60, 60, 60),
}
# Of data parameters, when the early answer is looked at: some after all atlases have counted alike.
EARLY_STEPS = 150
# Where the atlases lie, from the folder that the app is started in.
ATLASES = "atlases"


def make_atlases(folder: Path) -> tuple[Path, Path]:
    """Writes the pair that the app opens, and atlases into `folder`/atlases; returns the pair."""
    atlases = folder / ATLASES
    atlases.mkdir()
    rows = ["label,name,red,green,blue"]
    for label, name in LABEL_NAMES.items():
        red, green, blue = COLOURS[name.removeprefix("left ").removeprefix("right ")]
        rows.append(f"{label},{name.capitalize()},{red},{green},{blue}")
    (atlases / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    pair = head_phantom_pair(SHAPE, seed=SEEDS[0])
    files = folder / "patient.nii.gz", folder / "another.nii.gz"
    for volume, path in zip((pair.fixed, pair.moving), files, strict=True):
        write_volume(volume, path)
    for seed in SEEDS:
        other = head_phantom_pair(SHAPE, seed=seed)
        write_volume(other.moving, atlases / f"head{seed}.nii.gz")
        write_volume(other.moving_labels, atlases / f"head{seed}_labels.nii.gz")
    return files


def take(page: Any, folder: Path) -> None:
    """Looks through the folder, fuses, and saves what is seen."""
    page.click(".hyperreg-panel-fusion")
    page.fill(".hyperreg-fuse-folder input", ATLASES)
    page.click(".hyperreg-fuse-look")
    page.wait_for_function("window.trame.state.get('fuse_found') !== ''")
    save(page, folder / "app-atlases.png")
    page.click(".hyperreg-fuse")
    page.wait_for_function("window.trame.state.get('fuse_raters').length > 0")
    page.click(".hyperreg-sort-dice")
    save(page, folder / "app-consensus.png")
    page.click(".hyperreg-fuse-map input")
    page.click(".hyperreg-next-fuse-place")
    page.wait_for_function("window.trame.state.get('fuse_place') !== ''")
    save(page, folder / "app-disagreement.png")
    page.click(".hyperreg-fuse-map input")
    page.click(".hyperreg-fuse-method .v-field")
    page.locator(".v-overlay--active .v-list-item", has_text="Data parameters").first.click()
    page.click(".hyperreg-fuse")
    page.wait_for_function(f"parseInt(window.trame.state.get('fuse_early').split(' ')[1]) >= {EARLY_STEPS}")
    save(page, folder / "app-early.png")
    page.click(".hyperreg-fuse-keep")
    page.wait_for_function("window.trame.state.get('fuse_phase') === 'idle'")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=SCREENSHOTS)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        images = make_atlases(Path(scratch))
        with app_page(*images, folder=Path(scratch)) as page:
            take(page, arguments.output)


if __name__ == "__main__":
    main()
