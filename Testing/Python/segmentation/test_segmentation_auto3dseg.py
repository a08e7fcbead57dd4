"""Auto3DSeg's models go in as they are distributed, and give what MONAI gives with their own preparation."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imaging_examples import oblique_grid, scene
from monai.networks.nets import SegResNetDS
from monai.transforms import NormalizeIntensity, ScaleIntensityRange

from hyperreg.errors import WeightsError
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.bundles import add_model
from hyperreg.segmentation.session import Segmenter

NETWORK: dict[str, Any] = {
    "_target_": "SegResNetDS", "init_filters": 8, "blocks_down": [1, 1, 1], "norm": "INSTANCE_NVFUSER",
    "in_channels": 1, "out_channels": 3, "dsdepth": 2,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "network": NETWORK, "roi_size": [16, 16, 16], "normalize_mode": "range", "intensity_bounds": [-100.0, 300.0],
    "resample_resolution": [1.5, 1.5, 2.0], "orientation_ras": True, "crop_foreground": True, "sigmoid": False,
    "modality": "ct", "class_names": ["a", "b"],
}  # fmt: skip
TUMOUR: dict[str, Any] = {
    **CONFIG, "network": {**NETWORK, "in_channels": 4, "norm": ["INSTANCE", {"affine": True}]}, "normalize_mode": "mri",
    "sigmoid": True, "modality": "mri", "orientation_ras": False, "resample_resolution": [1.0, 1.0, 1.0],
}  # fmt: skip
COLUMNS = ("CodingSchemeDesignator", "CodeValue", "CodeMeaning")
PARTS = ("SegmentedPropertyCategory", "SegmentedPropertyType", "SegmentedPropertyTypeModifier")
HEADER = ",".join(("LabelValue", "Name", *(f"{part}CodeSequence.{name}" for part in PARTS for name in COLUMNS)))
ORGANS = f"""{HEADER}
1,kidney_right,SCT,123037004,Anatomical Structure,SCT,64033007,Kidney,SCT,24028007,Right
2,liver,SCT,123037004,Anatomical Structure,SCT,10200004,"Liver, whole",,,
"""
LESIONS = f"""{HEADER}
3,Neoplasm,SCT,49755003,Morphologically Altered Structure,SCT,86049000,"Neoplasm, Primary",,,
2,Edema,SCT,49755003,Morphologically Altered Structure,SCT,79654002,Edema,,,
1,Necrosis,SCT,49755003,Morphologically Altered Structure,SCT,6574001,Necrosis,,,
"""


def make_network(config: dict[str, Any]) -> SegResNetDS:
    torch.manual_seed(0)
    options = {name: value for name, value in config["network"].items() if name != "_target_"}
    return SegResNetDS(**{**options, "norm": "INSTANCE"}).eval()


def write(folder: Path, config: dict[str, Any] = CONFIG, labels: str | None = ORGANS, **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = {"epoch": 3, "best_metric": 0.9, "config": config, "state_dict": make_network(config).state_dict()}
    torch.save({**checkpoint, **more}, folder / "model.pt")
    if labels is not None:
        (folder / "labels.csv").write_text(labels, encoding="utf-8")
    return folder


def probabilities(card: Any, volumes: dict[str, Volume]) -> tuple[np.ndarray, np.ndarray]:
    given: dict[int, np.ndarray] = {}
    found = Segmenter(card, "cpu").segment(volumes, sink=lambda s, values: given.update({s.channel: values.array}))
    return np.stack([given[channel] for channel in sorted(given)]), found.labels.array


def test_a_ct_model_gives_what_monai_gives(tmp_path: Path) -> None:
    """In a zip, in a folder of its own, as they are downloaded."""
    folder = write(tmp_path / "organs-v2.0.0")
    with zipfile.ZipFile(tmp_path / "organs-v2.0.0.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"organs-v2.0.0/{file.name}")
    card = add_model(tmp_path / "organs-v2.0.0.zip", tmp_path / "models")
    assert (card.name, card.modality, card.axes, card.spacing_mm) == ("organs-v2.0.0", "CT", "ras", (1.5, 1.5, 2.0))
    kidney, liver = card.structures
    assert (kidney.label, kidney.channel, kidney.name) == (1, 1, "kidney right")
    assert kidney.terminology is not None and kidney.terminology.modifier is not None
    assert kidney.terminology.modifier.meaning == "Right"
    assert liver.terminology is not None and liver.terminology.modifier is None
    # One window, the model's own voxels: what differs is the network alone.
    grid = Grid((16, 16, 16), np.diag([1.5, 1.5, 2.0, 1.0]))
    array = np.random.default_rng(0).normal(0, 300, grid.shape).astype(np.float32)
    found, labels = probabilities(card, {"image": Volume(array, grid.ijk_to_ras, "ct")})
    with torch.inference_mode():
        ranged = ScaleIntensityRange(-100, 300, -1, 1, clip=False)(torch.from_numpy(array))
        expected = make_network(CONFIG)(torch.sigmoid(ranged)[None, None]).softmax(1)[0].numpy()
    np.testing.assert_allclose(found, expected[1:], atol=0.02)  # half precision on some CPUs
    assert (labels != expected.argmax(0)).mean() < 0.02


def test_a_model_of_tumours_paints_its_nested_regions(tmp_path: Path) -> None:
    card = add_model(write(tmp_path / "brats", TUMOUR, LESIONS), tmp_path / "models")
    assert [entry.name for entry in card.inputs] == ["T2F", "T1C", "T1N", "T2W"]
    assert (card.exclusive, card.axes, card.modality) == (False, "lps", "MR")
    assert [(s.label, s.channel, s.name) for s in card.structures] == [
        (2, 0, "Edema"),
        (1, 1, "Necrosis"),
        (3, 2, "Neoplasm"),
    ]
    grid = Grid((16, 16, 16), np.eye(4))
    random = np.random.default_rng(0)
    arrays = random.random((4, *grid.shape), dtype=np.float32) + np.arange(4, dtype=np.float32)[:, None, None, None]
    arrays[:, :1] = 0
    volumes = {
        entry.name: Volume(array, grid.ijk_to_ras, entry.name) for entry, array in zip(card.inputs, arrays, strict=True)
    }
    found, labels = probabilities(card, volumes)
    normal = NormalizeIntensity(nonzero=True, channel_wise=True)(arrays[:, ::-1, ::-1].copy())
    with torch.inference_mode():
        expected = make_network(TUMOUR)(torch.as_tensor(normal)[None]).sigmoid()[0].numpy()[:, ::-1, ::-1]
    np.testing.assert_allclose(found, expected, atol=0.02)
    # As the extension merges them: any region 2, then the inner ones over it.
    merged = np.where((expected > 0.5).any(0), 2, 0)
    merged[(expected[1:] > 0.5).any(0)] = 1
    merged[expected[2] > 0.5] = 3
    nested = (expected[0] > 0.5) | ((expected[1] < 0.5) & (expected[2] < 0.5))
    assert (labels != merged)[nested].mean() < 0.03


def test_anisotropic_networks_take_any_image(tmp_path: Path) -> None:
    config = {**CONFIG, "network": {**NETWORK, "resolution": [1.0, 1.0, 4.0]}, "resample_resolution": None}
    card = add_model(write(tmp_path / "thick", config), tmp_path / "models")
    assert card.spacing_mm == (None, None, None)
    grid = oblique_grid((21, 17, 5), (0.9, 1.1, 4.0))
    image = Volume(scene(grid).array - 1000, grid.ijk_to_ras, "ct")
    assert Segmenter(card, "cpu").segment({"image": image}).labels.grid.matches(grid)


def changed(**entries: Any) -> dict[str, Any]:
    return {**CONFIG, **entries}


@pytest.mark.parametrize(
    ("config", "labels", "words"),
    [
        (changed(network={**NETWORK, "_target_": "os.system"}), ORGANS, "network is 'system'"),
        (changed(network={**NETWORK, "act": "$__import__('os')"}), ORGANS, r"expression '\$__import__"),
        (changed(network={**NETWORK, "preprocess": {"_target_": "os.system"}}), ORGANS, "'preprocess'"),
        (changed(network="$make()"), ORGANS, "no plain description"),
        (changed(normalize_mode="pet"), ORGANS, "prepares images as pet"),
        (changed(extra_modalities={"image2": "mri"}), ORGANS, "prepares images as mri, range"),
        (changed(intensity_bounds=None), ORGANS, "intensity_bounds"),
        (changed(orientation_ras=False), ORGANS, "how its images lie"),
        (changed(roi_size=[16, 16]), ORGANS, "roi_size"),
        (changed(sigmoid=True), ORGANS, "regions overlap"),
        (CONFIG, ORGANS.replace("\n2,", "\n7,"), "label values"),
        (CONFIG, "Value;Name\n1;a\n", "no table"),
    ],
)
def test_what_is_not_known_is_refused_with_its_reason(
    tmp_path: Path, config: dict[str, Any], labels: str, words: str
) -> None:
    folder = write(tmp_path / "model", labels=labels)
    torch.save({"config": config, "state_dict": make_network(CONFIG).state_dict()}, folder / "model.pt")
    with pytest.raises(WeightsError, match=words):
        add_model(folder, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_incomplete_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no 'labels\.csv' as models of Auto3DSeg have"):
        add_model(write(tmp_path / "bare", labels=None), tmp_path / "models")
    other = make_network({"network": {**NETWORK, "init_filters": 16}})
    with pytest.raises(WeightsError, match="not those"):
        add_model(write(tmp_path / "other", state_dict=other.state_dict()), tmp_path / "models")
    folder = write(tmp_path / "plain")
    torch.save(make_network(CONFIG).state_dict(), folder / "model.pt")
    with pytest.raises(WeightsError, match="no 'config'"):
        add_model(folder, tmp_path / "models")
    (folder / "model.pt").unlink()
    with pytest.raises(WeightsError, match=r"no 'model\.pt'"):
        add_model(folder, tmp_path / "models")
