"""Does a model know when it is wrong? Every kind of image at hand, right and wrong ones, headers turned, half heads.

`right`: what the model is for; a warning would be false. `wrong`: another organ, another kind of image, a header that
lies; silence would be wrong. `either`: brains of a kind that the model has never seen, or so diseased or so cut that
nobody can say beforehand whether the result is good; they do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import DATA
from hyperreg.errors import HyperRegError
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.orientation import closest_axes
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.session import Segmenter

Change = Callable[[Volume], Volume]


def _turned(*axes: int) -> Change:
    """The header says that these axes of the body (R, A, S) run the other way, about the image's middle."""

    def change(volume: Volume) -> Volume:
        turn = np.eye(4)
        for axis in axes:
            turn[axis, axis] = -1
        middle = volume.grid.centre
        turn[:3, 3] = middle - turn[:3, :3] @ middle
        return Volume(volume.array, turn @ volume.ijk_to_ras, volume.name)

    return change


def _rolled(volume: Volume) -> Volume:
    """The header takes the axis from back to front for the one from feet to head."""
    turn = np.eye(4)
    turn[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    middle = volume.grid.centre
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    return Volume(volume.array, turn @ volume.ijk_to_ras, volume.name)


def _half(axis: int) -> Change:
    """The half towards the left, the back or the feet."""

    def change(volume: Volume) -> Volume:
        axes, signs = closest_axes(volume.ijk_to_ras)
        n = volume.shape[axes[axis]]
        # The half voxels around the middle of what is not background.
        inside = np.flatnonzero((volume.array > 0).any(axis=tuple(a for a in range(3) if a != axes[axis])))
        middle = int(inside[[0, -1]].mean())
        keep = slice(0, middle) if signs[axis] > 0 else slice(middle, n)
        index = [slice(None)] * 3
        index[axes[axis]] = keep
        affine = volume.ijk_to_ras.copy()
        affine[:3, 3] = volume.grid.to_ras([side.start or 0 for side in index])
        return Volume(np.ascontiguousarray(volume.array[tuple(index)]), affine, volume.name)

    return change


HEAD, BRAIN = "brain_ixi/IXI013-HH-1212_T1.nii.gz", "brain_oasis/1002_T1_brain.nii.gz"
CHANGES: dict[str, Change] = {
    "upside-down": _turned(1, 2),
    "flipped head to feet": _turned(2),
    "flipped front to back": _turned(1),
    "front taken for top": _rolled,
    "left half": _half(0),
    "lower half": _half(2),
}

# Model -> verdict -> files, or (file, change).
Entry = str | tuple[str, str]
OASIS = tuple(f"brain_oasis/{n}_T1_brain.nii.gz" for n in (1000, 1001, 1002, 1004, 1005, 1006, 1008, 1009, 1010, 1017))
IXI = tuple(
    f"brain_ixi/{n}_T1.nii.gz" for n in ("IXI013-HH-1212", "IXI014-HH-1236", "IXI033-HH-1259", "IXI034-HH-1260")
)
ABDOMEN_CT = ("abdomen/chaos_set3_ct.nii.gz", "abdomen/ts_example_ct.nii.gz")
NO_BRAIN_MR = (
    "abdomen/ts_example_mr_slab.nii.gz", "cardiac/SC-HF-I-01_ED_cine.nii.gz", "cardiac/SC-HF-I-01_ES_cine.nii.gz",
    "cardiac/SC-HF-NI-03_ED_cine.nii.gz", "spine/PAM50_small_t2.nii.gz", "spine/sct_t2s_uncropped.nii.gz",
    "spine/t1w.nii.gz", "spine/t2.nii.gz", "spine/tptbox_sub-mri_label-6_T2w.nii.gz",
    "test_breast_ucsf/UCSF-BR-06_dce0.nii.gz", "test_limb_sts/STS_001_T1.nii.gz",
    "test_limb_sts/STS_001_T2_fatsat.nii.gz", "test_limb_sts/STS_002_MR_T1_image.nii.gz",
    "test_prostate_picai/10000_adc.nii.gz", "test_prostate_picai/10000_hbv.nii.gz", "mouse/FVB_invivo_1_T2.nii.gz",
)  # fmt: skip
NO_HEAD_CT = (
    *ABDOMEN_CT, "lung/3DCT_lung_baseline.mha", "lung/3DCT_lung_followup.mha", "test_thorax_lung1/LUNG1-001_ct.nii.gz",
    "test_limb_sts/STS_002_CT_image.nii.gz", "spine/tptbox_sub-ct_label-22_ct.nii.gz",
)  # fmt: skip
ANATOMY_CASES: dict[str, tuple[Entry, ...]] = {
    "right": (
        *OASIS, *IXI, *(f"brain_ms/patient19_{name}.nii.gz" for name in ("T1", "T2", "FLAIR")),
        *(f"brain_stroke/stroke_{name}.nii.gz" for name in ("T1", "T2", "FLAIR")),
        "brain_stroke/seg3D_MR_T1_fullhead.nii.gz", "brain_templates/colin27_ch2_antspy.nii.gz",
        "brain_templates/mni152_antspy.nii.gz", "test_heads_decubitus/HFS_T1.nii.gz",
        "test_heads_decubitus/HFP_T1.nii.gz", "test_heads_niivue/chris_t1.nii.gz",
        "test_heads_niivue/chris_PD.nii.gz",
    ),
    "wrong": (
        *NO_BRAIN_MR, *NO_HEAD_CT, "test_limb_sts/STS_001_PET.nii.gz", "test_heads_niivue/CT_pitch.nii.gz",
        *((file, change) for file in (HEAD, BRAIN) for change in CHANGES if "half" not in change),
    ),
    "either": (
        *((file, change) for file in (HEAD, BRAIN) for change in CHANGES if "half" in change),
        "brain_tumour/BraTS-GLI-00001-000-t1n.nii.gz", "brain_tumour/BraTS-GLI-00001-000-t2f.nii.gz",
        "brain_tumour/TCGA-FG-6692_native_t1.nii.gz", "test_brain_pyradiomics/brain1_image.nii.gz",
        "test_heads_niivue/chris_MRA.nii.gz", "test_heads_niivue/fmri_pitch.nii.gz",
        "brain_fetal/CRL_GA24_T2.nii.gz", "brain_fetal/CRL_GA32_T2.nii.gz",
    ),
}  # fmt: skip
TEST_PATIENTS = ("pt_247", "pt_260", "pt_265", "pt_269", "pt_282", "pt_286")
NECK = f"head_neck_ct/{TEST_PATIENTS[0]}_ct.nii.gz"
HEAD_NECK_CASES: dict[str, tuple[Entry, ...]] = {
    "right": tuple(f"head_neck_ct/{patient}_ct.nii.gz" for patient in TEST_PATIENTS),
    "wrong": (
        *NO_HEAD_CT, *NO_BRAIN_MR, BRAIN, HEAD, *((NECK, change) for change in CHANGES if "half" not in change),
    ),
    "either": (
        "test_heads_niivue/CT_pitch.nii.gz", "brain_templates/ct_brain_atlas_1mm.nii.gz", (NECK, "left half"),
        (NECK, "lower half"),
    ),
}  # fmt: skip
CASES = {"brain-anatomy": ANATOMY_CASES, "head-neck-organs": HEAD_NECK_CASES}


def named(entry: Entry) -> str:
    """A case's name in tables."""
    return entry if isinstance(entry, str) else f"{entry[0]}, {entry[1]}"


def run(model: str, entry: Entry, kind: str) -> dict[str, Any]:
    """What the user is told of one image: refused, warned (in red), or nothing. kind: see the module."""
    file, change = (entry, None) if isinstance(entry, str) else entry
    volume = read_volume(Path(DATA / file))
    if change is not None:
        volume = CHANGES[change](volume)
    segmenter = _segmenter(model)
    try:
        result = segmenter.segment({segmenter.card.inputs[0].name: volume})
    except HyperRegError as error:
        return {"kind": kind, "told": "refused", "odd": len(segmenter.card.structures), "text": str(error)}
    verdict = result.verdict
    return {
        "kind": kind,
        "told": "warned" if verdict.wrong else "noted" if verdict.notes else "nothing",
        "odd": len(verdict.odd),
        "text": " ".join([*verdict.odd[:3], *verdict.notes]),
    }


@lru_cache(maxsize=1)
def _segmenter(model: str) -> Segmenter:
    return Segmenter(model, "cpu")
