"""The fixed list of pairs. The images lie beside the repository (../shared/data) and are not part of it."""

from __future__ import annotations

import csv
from collections.abc import Container, Iterator
from pathlib import Path

from benchmarks.pairs import DATA, LUNG_LEFT_OUT, check_data
from benchmarks.registration.case import Case
from benchmarks.registration.synthetic import deformed

# Ordered (fixed, moving) subjects: native grids, nothing aligned beforehand. Each is fixed once and moving once.
OASIS = (
    ("1005", "1006"), ("1008", "1009"), ("1010", "1017"), ("1000", "1005"), ("1006", "1002"),
    ("1009", "1001"), ("1017", "1004"), ("1001", "1008"), ("1004", "1010"), ("1002", "1000"),
)  # fmt: skip
# These two were looked at while the method was made; they never count in the full form.
OASIS_DEVELOPMENT = (("1000", "1001"), ("1002", "1004"))
IXI = (("IXI013-HH-1212", "IXI014-HH-1236"), ("IXI033-HH-1259", "IXI034-HH-1260"))
# Fixed image, image that is deformed, seed of the deformation.
CROSS = (
    ("brain_ms/patient19_T1", "brain_ms/patient19_T2", 11),
    ("brain_ms/patient19_T1", "brain_ms/patient19_FLAIR", 12),
    ("brain_stroke/stroke_T1", "brain_stroke/stroke_T2", 13),
    ("brain_stroke/stroke_T1", "brain_stroke/stroke_FLAIR", 14),
)
CARDIAC = ("SC-HF-I-01", "SC-HF-NI-03")
# From this number on the labels of brain_oasis are cortical regions.
FIRST_CORTICAL = 100
SUBCORTICAL_NAMES = ("Accumbens", "Amygdala", "Caudate", "Hippocampus", "Pallidum", "Putamen", "Thalamus", "Ventral DC")
GROUPS = ("oasis", "cross", "lung", "cardiac", "spine", "ixi", "template", "development")


def oasis_groups() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The subcortical and the cortical labels of brain_oasis, by their names."""
    with (DATA / "brain_oasis" / "label_information.csv").open(encoding="utf-8") as stream:
        names = {int(row["Label Number"]): row["Label Name"] for row in csv.DictReader(stream)}
    subcortical = tuple(n for n, name in names.items() if any(part in name for part in SUBCORTICAL_NAMES))
    return subcortical, tuple(n for n in names if n >= FIRST_CORTICAL)


def oasis_case(fixed: str, moving: str, development: bool) -> Case:
    folder = DATA / "brain_oasis"
    subcortical, cortical = oasis_groups()
    return Case(
        f"oasis-{fixed}-{moving}",
        "development" if development else "oasis",
        folder / f"{fixed}_T1_brain.nii.gz",
        folder / f"{moving}_T1_brain.nii.gz",
        fixed_labels=folder / f"{fixed}_labels.nii.gz",
        moving_labels=folder / f"{moving}_labels.nii.gz",
        subcortical=subcortical,
        cortical=cortical,
        development=development,
    )


def cases_of(groups: Container[str], made: Path) -> Iterator[Case]:
    """The pairs of some of the GROUPS; images that are deformed here are kept in the folder `made`; or FileError."""
    every = all_cases(made, with_deformed="cross" in groups)
    return (case for case in every if case.group in groups)


def all_cases(made: Path, *, with_deformed: bool = True) -> Iterator[Case]:
    """Every pair, those of development last; see `cases_of`. Making the deformed images takes a minute.

    Raises FileError, saying where the images are expected, if they are not there.
    """
    check_data()
    for here, there in OASIS:
        yield oasis_case(here, there, development=False)
    for here, there, seed in CROSS if with_deformed else ():
        image, truth = deformed(DATA / f"{there}.nii.gz", seed, made)
        name = f"cross-{here.split('/')[1]}-{there.split('_')[-1]}"
        yield Case(name, "cross", DATA / f"{here}.nii.gz", image, cross=True, truth=truth)
    lung = DATA / "lung"
    yield Case(
        "lung", "lung", lung / "3DCT_lung_baseline.mha", lung / "3DCT_lung_followup.mha", body="lung",
        fixed_points=lung / "landmarks_fixed_51.txt", moving_points=lung / "landmarks_moving_51.txt",
        left_out=(LUNG_LEFT_OUT,),
    )  # fmt: skip
    for patient in CARDIAC:
        fixed, moving = (DATA / "cardiac" / f"{patient}_{what}_cine.nii.gz" for what in ("ED", "ES"))
        labels = [DATA / "cardiac" / f"{patient}_{what}_lv_label.nii.gz" for what in ("ED", "ES")]
        name = f"cardiac-{patient}"
        yield Case(name, "cardiac", fixed, moving, body="other", fixed_labels=labels[0], moving_labels=labels[1])
    spine = DATA / "spine"
    yield Case(
        "spine-t1-t2", "spine", spine / "t1w.nii.gz", spine / "t2.nii.gz", cross=True, body="spine",
        fixed_labels=spine / "t1w_seg-manual.nii.gz", moving_labels=spine / "t2_seg-manual.nii.gz",
    )  # fmt: skip
    for here, there in IXI:
        fixed, moving = (DATA / "brain_ixi" / f"{name}_T1.nii.gz" for name in (here, there))
        labels = [DATA / "brain_ixi" / f"{name}_T1_DLMUSE.nii.gz" for name in (here, there)]
        yield Case(
            f"ixi-{here[3:6]}-{there[3:6]}", "ixi", fixed, moving, fixed_labels=labels[0], moving_labels=labels[1],
            automatic_labels=True,
        )  # fmt: skip
    templates = DATA / "brain_templates"
    yield Case(
        "template-mni-ct", "template", templates / "mni152_antspy.nii.gz", templates / "ct_brain_atlas_1mm.nii.gz",
        cross=True,
    )  # fmt: skip
    for here, there in OASIS_DEVELOPMENT:
        yield oasis_case(here, there, development=True)
