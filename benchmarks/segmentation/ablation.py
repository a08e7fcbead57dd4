"""What variational branch, second stage and AH-Net bring, as in the papers' ablations, at toy size: minutes on a CPU.

Short trainings on synthetic images (a whole brain in one patch of coarse voxels, few filters, steps, structures), each
from several seeds; measured on synthetic cases with numbers that no training reaches. What holds here need not hold at
full size.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml

from hyperreg.training.segmentation import SegmentationTrainer
from hyperreg.training.segmentation_config import read_segmentation_config

CONFIGS = Path(__file__).resolve().parents[2] / "hyperreg" / "training" / "configs"
STEPS, CASES = 150, 6
SPACING_MM = 5.0
SEEDS = (0, 1)
SMALL = {"filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]}
NORMED = {**SMALL, "normed": True}
WINDOW = [32, 40, 32]
# FreeSurfer numbers of what can be seen in voxels of this size.
BRAIN = {
    "Cerebral white matter": [2],
    "Cerebral cortex": [3],
    "Lateral ventricle": [4],
    "Deep grey matter": [10, 11, 12, 13],
    "Cerebellum": [7, 8],
    "Brain stem": [16],
}
ANATOMY: dict[str, Any] = {
    "structures": [
        {"label": label, "name": name, "colour": [0, 0, 0], "numbers": numbers}
        for label, (name, numbers) in enumerate(BRAIN.items(), start=1)
    ],
    "vae": None,
}
TUMOUR: dict[str, Any] = {"vae": None}


def _segresnet(options: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"network": {"name": "segresnet", "options": options}, **more}


AHNET = {"width": 8, "layers": [1, 1, 1, 1], "growth": 6, "halvings": 2, "pools": 2, "norm": "instance"}
UNET = {"channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1}
# Name -> the bundled model's configuration that it starts from, and what is changed.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "SegResNet as in the paper": ("brain_anatomy", {**ANATOMY, **_segresnet(SMALL)}),
    "SegResNet, norms on the stream": ("brain_anatomy", {**ANATOMY, **_segresnet(NORMED)}),
    "the same with VAE": ("brain_anatomy", {**ANATOMY, **_segresnet(NORMED, vae={"codes": 32})}),
    "AH-Net": ("brain_anatomy", {**ANATOMY, "network": {"name": "ahnet", "options": AHNET}}),
    "MONAI's UNet": ("brain_anatomy", {**ANATOMY, "network": {"name": "monai_unet", "options": UNET}}),
    "tumour, stage 1 alone": ("brain_tumour_experimental", {**TUMOUR, **_segresnet(NORMED)}),
    "tumour, cascade": (
        "brain_tumour_experimental",
        {
            **TUMOUR,
            "network": {"name": "cascade", "options": {"first": NORMED, "second": NORMED, "window": [20, 20, 20]}},
        },
    ),
}
COMMON: dict[str, Any] = {
    "grid": {"axes": "ras", "spacing_mm": [SPACING_MM] * 3, "window": WINDOW},
    "loss": {"dice": 1.0, "cross_entropy": 1.0},
    "steps": STEPS,
    "learning_rate": 1.0e-2,
    "averaging": 0.95,
    "validation": {"cases": CASES, "every": STEPS},
    "warm_up": 20,
    "workers": 0,
    "precision": "float32",
    # From the beginning, on a CPU, however the bundled models came about.
    "start_from": None,
    "device": "cpu",
    "minutes": None,
}
SYNTHESIS: dict[str, Any] = {
    "shape": WINDOW,
    "spacing_mm": [0.95 * SPACING_MM, 1.05 * SPACING_MM],
    "looks": 2,
    "supersampling": 1,
    "stripped": 1.0,
    "strength": [1.0, 2.0],
    "on_device": False,
}


def train(name: str, seed: int, folder: Path) -> dict[str, float]:
    """One short training; Dice over the validation cases, and the CPU-seconds it took, those for images included."""
    base, changes = VARIANTS[name]
    config = yaml.safe_load((CONFIGS / f"{base}.yaml").read_text(encoding="utf-8"))
    synthesis = {**config["synthesis"], **SYNTHESIS}
    synthesis["label_maps"] = [str((CONFIGS / path).resolve()) for path in synthesis["label_maps"]]
    config = {**config, **COMMON, **changes, "synthesis": synthesis, "seed": seed, "output": str(folder)}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}), "utf-8")
    started = time.process_time()
    trainer = SegmentationTrainer(read_segmentation_config(path))
    for sample in trainer.remaining_samples():
        trainer.train_step(sample)
    seconds = time.process_time() - started
    return {"dice": trainer.validate(trainer.held_out())[0]["dice"], "cpu_s": seconds}
