"""The bundled head and neck model: what its card tells, and what CTs of scanners do to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.catalogue import SegmentationCard, find_model
from hyperreg.segmentation.inputs import check_inputs, show
from hyperreg.segmentation.plausibility import ALARM
from hyperreg.segmentation.session import Segmenter

# Of those that the training was validated with: the patients for testing are looked at by the benchmark alone.
PATIENT = "pt_87"
# How a planning scanner reconstructs, and how the images that the model learned from are resampled; mm along R, A, S.
FINE_MM, COARSE_MM = (0.9766, 0.9766, 2.5), (5.0, 5.0, 2.5)


@pytest.fixture(scope="module")
def card() -> SegmentationCard:
    return find_model("head-neck-organs")


@pytest.fixture(scope="module")
def segmenter(card: SegmentationCard) -> Segmenter:
    return Segmenter(card, "cpu")


def body(spacing: tuple[float, float, float], height_mm: float = 150.0, padding: float = -1000.0) -> Volume:
    """A CT of a neck that nobody has: soft tissue 160 mm wide with a bone and an airway along it, all smooth."""
    extent = np.array([300.0, 300.0, height_mm])
    i, j, k = (round(n) for n in extent / spacing)
    affine = np.diag([*(extent / (i, j, k)), 1.0])
    affine[:3, 3] = affine.diagonal()[:3] / 2 - extent / 2
    x, y, z = np.meshgrid(*(affine[n, n] * np.arange(size) + affine[n, 3] for n, size in enumerate((i, j, k))),
                          indexing="ij")  # fmt: skip

    def inside(distance: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(np.clip(distance / 4, -50, 50)))

    tissue, bone, airway = (
        inside(np.hypot(x, y + shift + 0.1 * z) - radius)
        for shift, radius in ((0.0, 80.0), (40.0, 20.0), (-30.0, 12.0))
    )
    array = -1000 + 1050 * tissue + 600 * bone - 1050 * airway
    array[np.hypot(x, y) > 148] = padding
    return Volume(array.astype(np.float32), affine, "neck")


def test_the_card_names_organs_sides_and_codes(card: SegmentationCard) -> None:
    codes = {s.name: s.terminology for s in card.structures}
    assert list(codes) == [
        "Brainstem", "Spinal cord", "Right parotid gland", "Left parotid gland", "Oesophagus", "Larynx", "Mandible",
    ]  # fmt: skip
    assert all(code is not None and code.type.scheme == "SCT" for code in codes.values())
    for side in ("Right", "Left"):
        code = codes[f"{side} parotid gland"]
        assert code is not None
        assert code.modifier is not None
        assert (code.type.value, code.modifier.meaning) == ("45289007", side)
    assert all(structure.expected is not None for structure in card.structures)
    assert card.modality == "CT"
    assert card.weights.stat().st_size <= 4e6


@pytest.mark.parametrize("padding", [-1000.0, -2000.0, -3024.0])
def test_the_network_sees_a_scanner_s_ct_as_a_coarse_one(card: SegmentationCard, padding: float) -> None:
    seen = {}
    for spacing in (FINE_MM, COARSE_MM):
        volume = check_inputs({"ct": body(spacing, padding=padding)}, card, [])
        images, frame = show(volume, card, None, [])
        assert frame.model.spacing == pytest.approx(card.spacing_mm)
        middle = [n // 2 for n in images.shape[2:]]
        seen[spacing] = images[0, 0, middle[0] - 15 : middle[0] + 15, middle[1] - 15 : middle[1] + 15, middle[2]]
    # The grids are centred on the same point, but for half a voxel where one has an odd number of them.
    difference = (seen[FINE_MM] - seen[COARSE_MM]).abs()
    assert float(difference.mean()) < 0.03
    assert float(seen[FINE_MM].max()) == 1
    assert 0.3 < float(seen[FINE_MM].median()) < 0.4  # 50 HU in the window from -150 to 400


def test_what_is_no_neck_is_called_so(segmenter: Segmenter) -> None:
    result = segmenter.segment({"ct": body((2.0, 2.0, 2.5))})
    assert result.verdict.wrong or not result.labels.array.any()
    assert result.warnings


def dice(one: np.ndarray, two: np.ndarray) -> float:
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


def test_a_trunk_below_changes_little_in_a_neck(segmenter: Segmenter, real_data: Path) -> None:
    image = read_volume(real_data / "head_neck_ct" / f"{PATIENT}_ct.nii.gz")
    truth = read_label_map(real_data / "head_neck_ct" / f"{PATIENT}_labels.nii.gz").array
    alone = segmenter.segment({"ct": image})
    assert not alone.verdict.wrong, alone.verdict
    assert dice(alone.labels.array > 0, truth > 0) > 0.75
    # The image's last axis runs towards the feet: 600 mm more of the lowest slice, with its spine, lungs and shoulders.
    assert image.ijk_to_ras[2, 2] < 0
    trunk = np.repeat(image.array[..., -1:], round(600 / image.spacing[2]), axis=2)
    longer = Volume(np.concatenate((image.array, trunk), axis=2), image.ijk_to_ras, "longer")
    found = segmenter.segment({"ct": longer})
    part = found.labels.array[..., : image.shape[2] - 20]
    assert dice(part > 0, alone.labels.array[..., : image.shape[2] - 20] > 0) > 0.9
    assert not any(warning.startswith(ALARM) for warning in found.warnings), found.warnings
