"""What a network sees of a body that is not of the kind it was made for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hyperreg.imaging.files import read_volume
from hyperreg.imaging.intensity import check_image, foreground
from hyperreg.imaging.volume import Volume
from hyperreg.registration.catalogue import NONE
from hyperreg.registration.grids import beyond_model
from hyperreg.registration.session import LiveSession

# As models of brains have it: 192 x 224 x 224 mm.
BRAIN = replace(NONE, name="brain", spacing_mm=2.0, max_shape=(96, 112, 112), multiple=16)


def told(volume: Volume) -> list[str]:
    return beyond_model(volume, foreground(volume), BRAIN)


@pytest.mark.parametrize(
    ("file", "larger"),
    [
        ("lung/3DCT_lung_baseline.mha", True),
        ("abdomen/ts_example_mr_slab.nii.gz", True),
        ("cardiac/SC-HF-I-01_ED_cine.nii.gz", True),
        ("brain_ixi/IXI013-HH-1212_T1.nii.gz", False),
        ("brain_oasis/1000_T1_brain.nii.gz", False),
        ("brain_tumour/TCGA-FG-6692_native_fla.nii.gz", False),
        ("test_heads_decubitus/HFDL_T1.nii.gz", False),
        ("test_heads_niivue/fmri_pitch.nii.gz", False),  # coarse itself
    ],
)
def test_a_trunk_is_told_from_a_head_by_its_size(real_data: Path, file: str, larger: bool) -> None:
    warnings: list[str] = []
    found = told(check_image(read_volume(real_data / file), warnings))
    assert len(found) == larger
    assert all("larger than what the model 'brain' was made for" in text for text in found)


def test_a_session_with_a_network_says_that_a_body_is_too_large_for_it(tiny_model: str) -> None:
    """A trunk, and a model of brains: it is registered, but never in silence. The solver minds no size."""
    points = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 36, 44)), indexing="ij"), axis=-1)
    body = (np.linalg.norm((points - (20, 18, 22)) / (18, 16, 20), axis=-1) < 1) * (100 + 30 * np.sin(points).sum(-1))
    fixed, moving = (
        Volume(np.roll(body, shift, axis=0).astype(np.float32), np.diag([9.0, 9.0, 9.0, 1.0]), "trunk")
        for shift in (0, 1)
    )
    for model, said in ((tiny_model, 1), (NONE.name, 0)):
        session = LiveSession(model, "cpu")
        session.prepare(fixed, moving, initial="none")
        assert sum("'trunk' (" in text and "choose no model" in text for text in session.warnings) == said


def test_size_counts_not_the_number_of_voxels_or_the_orientation() -> None:
    body = np.zeros((60, 40, 50), np.float32)
    body[4:-4, 4:-4, 4:-4] = 100
    for spacing, larger in ((3.0, False), (6.0, True)):
        turned = np.diag([-spacing, spacing, spacing, 1.0])[:, [2, 0, 1, 3]]
        assert len(told(Volume(body, turned, "body"))) == larger
