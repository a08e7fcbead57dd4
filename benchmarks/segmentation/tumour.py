"""The experimental tumour model on BraTS-GLI-00001, against the result of an algorithm that comes with the case.

That result won a challenge; it is no expert's drawing, so this is agreement, not accuracy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.pairs import DATA
from benchmarks.segmentation.measure import segment
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.volume import Volume
from hyperreg.nets.cascade import Cascade
from hyperreg.segmentation.catalogue import find_model
from hyperreg.segmentation.inputs import check_inputs, show
from hyperreg.segmentation.islands import remove_islands
from hyperreg.segmentation.measures import hausdorff95
from hyperreg.segmentation.model import load_model
from hyperreg.segmentation.prediction import Prediction

# Labels of both: 1 necrotic core, 2 oedema, 3 enhancing.
REGIONS = {"whole tumour": (1, 2, 3), "tumour core": (1, 3), "enhancing tumour": (3,)}
CASE = DATA / "brain_tumour" / "BraTS-GLI-00001-000"
FILES = {"t1c": "t1c", "t1": "t1n", "t2": "t2w", "flair": "t2f"}


def run(model: str, output: Path, threads: int) -> dict[str, Any]:
    """Regions of the whole model by the command, and of its first stage alone, both without islands."""
    out = output / "segmentations" / f"BraTS-GLI-00001-{model}.nii.gz"
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = {name: CASE.with_name(f"{CASE.name}-{file}.nii.gz") for name, file in FILES.items()}
    cost = segment([f"{name}={path}" for name, path in paths.items()], model, out, threads)
    reference = read_label_map(CASE.with_name(f"{CASE.name}-seg_brats23winner.nii.gz"))
    found = {"cascade": regions(read_label_map(out).array, reference)}
    card = find_model(model)
    network = load_model(card)
    if isinstance(network, Cascade):
        volumes = {name: read_volume(path) for name, path in paths.items()}
        images, frame = show(check_inputs(volumes, card, []), card, None, [])
        probabilities = Prediction(network.first, card.window, card.exclusive)(images).numpy()
        remove_islands(probabilities, card, frame.model.spacing)
        labels = Volume(probabilities.argmax(0).astype(np.uint8), frame.model.ijk_to_ras)
        found["stage 1"] = regions(resample(labels, reference.grid, interpolation="nearest").array, reference)
    return {"regions": found, **cost.__dict__}


def regions(found: npt.NDArray[np.integer], reference: Volume) -> dict[str, dict[str, float]]:
    """Dice and HD95 (mm) of the three regions."""
    rows = {}
    for name, labels in REGIONS.items():
        one, two = np.isin(found, labels), np.isin(reference.array, labels)
        dice = 2 * int((one & two).sum()) / max(1, int(one.sum()) + int(two.sum()))
        rows[name] = {"dice": dice, "hd95_mm": hausdorff95(one, two, reference.spacing), "ml": float(one.sum()) / 1000}
    return rows
