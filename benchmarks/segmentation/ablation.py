"""What the variational branch and the second stage bring, as in the papers' ablations, at toy size: minutes on a CPU.

Short trainings on synthetic images (small patches of coarse voxels, few filters, few steps), each from several seeds;
measured on synthetic cases with numbers that no training reaches. What holds here need not hold at full size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hyperreg.training.segmentation import SegmentationTrainer
from hyperreg.training.segmentation_config import read_segmentation_config

CONFIGS = Path(__file__).resolve().parents[2] / "hyperreg" / "training" / "configs"
STEPS, CASES = 300, 6
SEEDS = (0, 1)
SMALL = {"filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]}
# Name -> the bundled model's configuration that it starts from, and what is changed.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "SegResNet": ("brain_anatomy", {"network": {"name": "segresnet", "options": SMALL}, "vae": None}),
    "SegResNet with VAE": ("brain_anatomy", {"network": {"name": "segresnet", "options": SMALL}, "vae": {"codes": 32}}),
    "stage 1 alone": ("brain_tumour_experimental", {"network": {"name": "segresnet", "options": SMALL}, "vae": None}),
    "cascade": (
        "brain_tumour_experimental",
        {"network": {"name": "cascade", "options": {"first": SMALL, "second": SMALL, "window": [24] * 3}}, "vae": None},
    ),
}
COMMON: dict[str, Any] = {
    "grid": {"axes": "ras", "spacing_mm": [4.0, 4.0, 4.0], "window": [40, 48, 40]},
    "steps": STEPS,
    "validation": {"cases": CASES, "every": STEPS},
    "warm_up": 20,
    "workers": 0,
}
# The whole brain in one patch.
SYNTHESIS = {"shape": [40, 48, 40], "spacing_mm": [3.5, 4.5], "looks": 1}


def train(name: str, seed: int, folder: Path) -> dict[str, float]:
    """One short training; Dice over the validation cases, and the process time that it took."""
    base, changes = VARIANTS[name]
    config = yaml.safe_load((CONFIGS / f"{base}.yaml").read_text(encoding="utf-8"))
    synthesis = {**config["synthesis"], **SYNTHESIS}
    synthesis["label_maps"] = [str((CONFIGS / path).resolve()) for path in synthesis["label_maps"]]
    config = {**config, **COMMON, **changes, "synthesis": synthesis, "seed": seed, "output": str(folder)}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}), "utf-8")
    trainer = SegmentationTrainer(read_segmentation_config(path))
    for sample in trainer.remaining_samples():
        trainer.train_step(sample)
    return {"dice": trainer.validate(trainer.held_out())[0]["dice"], "seconds": trainer.seconds}
