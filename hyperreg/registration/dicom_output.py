"""What a registration leaves as DICOM: the registration object, the resampled series, and the report's sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import dicom
from hyperreg.imaging.dicom import derived, identity, registration_objects
from hyperreg.imaging.dicom.results import DicomRequest, about_series, series_of, warning_rows
from hyperreg.imaging.output import replacing_folder
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.structures import name_of
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.page import PageImages, in_words, write_page
from hyperreg.sheet import PAGE, write_rows

if TYPE_CHECKING:
    from pydicom import Dataset

    # The browser app writes DICOM in its own process, which never loads torch.
    from hyperreg.registration.pairs import LoadedPair, Pair

# Points of a saved registration may differ from those of the computed one by this much.
AGREEMENT_MM = 0.01
SAMPLES = 5_000


@dataclass(frozen=True)
class DicomResults:
    """Where to write, and the headers of both images."""

    folder: Path
    fixed: list[Dataset]
    moving: list[Dataset]
    leave_out_patient: bool

    def write(self, images: PageImages, report: Mapping[str, Any], volumes: Mapping[str, str]) -> list[str]:
        """Write the registration of two images, and return warnings.

        report: as the command line or the browser app has it. volumes: see `volume_changes`.
        Raises FileError if a file cannot be written or does not say what was computed.
        """
        transform, grid = images.after, images.fixed.grid
        said = f"HyperReg, lambda {report['lambda']:g}, model {report['model']['name']} {report['model']['version']}"
        path = self.folder / "registration.dcm"
        registration_objects.write_registration(transform, self.fixed, self.moving, path, grid, said)
        check_saved(path, transform, grid)
        warnings = self._write_series(resample(images.moving, grid, transform), images.moving, said)
        told = warning_rows([*report["warnings"], *warnings], self.leave_out_patient)
        headers = {"Fixed": self.fixed[0], "Moving": self.moving[0]}
        facts = {role: about_series(header, role) for role, header in headers.items()}
        rows = {**facts["Fixed"], **facts["Moving"], **_values(report), **told, **volumes}
        write_rows("HyperReg: deformable registration", rows, self.folder)
        patient = {role: in_words(found) for role, found in facts.items()}
        write_page({**report, "warnings": list(told.values())}, images, self.folder / PAGE, patient)
        return warnings

    def _write_series(self, registered: Volume, moving: Volume, said: str) -> list[str]:
        modality = str(self.moving[0].get("Modality", ""))
        if not derived.can_be_written(modality):
            why = f"Resampled images of the modality '{modality}' are not written as DICOM. Save one with --out-volume."
            return [why]
        folder = self.folder / "resampled"
        folder.mkdir()
        whole = moving.array.dtype.kind in "iu"
        derivation = f"Resampled onto the fixed image. {said}"
        derived.write_series(registered, self.fixed, self.moving, folder, derivation, whole)
        return []


@contextmanager
def dicom_results(request: DicomRequest | None, pair: Pair) -> Iterator[DicomResults | None]:
    """Check, before anything is computed, that DICOM can be written of a pair; the folder appears when the block ends.

    Yields None without a request. Raises InputError if an image is no DICOM series, lacks what objects refer to, or if
    both are of different patients; FileError if the folder is there already or cannot be written.
    """
    if request is None:
        yield None
        return
    series = [series_of(path) for path in (pair.fixed, pair.moving)]
    if not request.leave_out_patient and dicom.different_patients(pair.fixed, pair.moving):
        raise InputError(
            "The DICOM headers name different patients for the two images: objects that connect them are not written, "
            "or one patient's images would lie in the other's record. Use --leave-out-patient-data if that is meant."
        )
    fixed, moving = (identity.sources_of(one, request.leave_out_patient) for one in series)
    with replacing_folder(request.folder) as folder:
        yield DicomResults(folder, fixed, moving, request.leave_out_patient)


def check_saved(path: Path, transform: Transform, grid: Grid) -> None:
    """Read a registration back, as another program would. Raises FileError if it maps points of `grid` elsewhere."""
    relative = np.random.default_rng(0).uniform(0.02, 0.98, size=(SAMPLES, 3))
    points = grid.to_ras(relative * (np.array(grid.shape) - 1))
    error = np.abs(registration_objects.read_registration(path).apply(points) - transform.apply(points)).max()
    if error > AGREEMENT_MM:
        raise FileError(
            f"The DICOM registration differs from the computed one by {error:.3g} mm; nothing was kept. Report this as "
            "a fault of HyperReg."
        )


def _values(report: Mapping[str, Any]) -> dict[str, str | float]:
    metrics, dice = report["metrics"], report["dice"]
    rows: dict[str, str | float] = {
        "Lambda (0 flexible, 1 rigid)": report["lambda"],
        **({"Lambda chosen": report["lambda_choice"]["reason"]} if "lambda_choice" in report else {}),
        "Model": f"{report['model']['name']} {report['model']['version']}",
    }
    rows |= {key: metrics[name] for name, key in _NAMES.items() if name in metrics}
    if dice:
        rows |= {"Dice before, mean": dice["mean_before"], "Dice after, mean": dice["mean_after"]}
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return rows | {"Made": report["created"], "Versions": versions}


_NAMES = {
    "similarity_before": "Similarity before (local NCC)",
    "similarity": "Similarity after (local NCC)",
    "landmarks_mm_before": "Landmarks before, mm",
    "landmarks_mm": "Landmarks after, mm",
    "pulled_mm_before": "Landmarks that pull, before, mm",
    "pulled_mm": "Landmarks that pull, after, mm",
    "displacement_mean_mm": "Displacement, mean, mm",
    "displacement_max_mm": "Displacement, maximum, mm",
    "volume_change_low_percent": "Local volume change, 5th percentile, %",
    "volume_change_high_percent": "Local volume change, 95th percentile, %",
    "folding_percent": "Folding, % of the voxels",
}


def volume_changes(images: LoadedPair) -> dict[str, str]:
    """Of the structures that both label maps have: ml in the fixed and the moving image, and the change."""
    if images.fixed_labels is None or images.moving_labels is None:
        return {}
    volumes = []
    for labels in (images.fixed_labels, images.moving_labels):
        values, counts = np.unique(labels.array, return_counts=True)
        voxel_ml = abs(float(np.linalg.det(labels.ijk_to_ras[:3, :3]))) / 1000
        volumes.append(dict(zip(values.tolist(), (counts * voxel_ml).tolist(), strict=True)))
    fixed, moving = volumes
    return {
        f"Volume of {name_of(label, images.table)}": f"fixed {fixed[label]:.2f} ml, moving {moving[label]:.2f} ml "
        f"({100 * (moving[label] / fixed[label] - 1):+.1f} %)"
        for label in sorted((fixed.keys() & moving.keys()) - {0})
    }
