"""What a segmentation leaves as DICOM: the segmentation object, and the report's sheet."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hyperreg.imaging.dicom import identity, segmentation_objects
from hyperreg.imaging.dicom.results import DicomRequest, about_series, series_of, warning_rows
from hyperreg.imaging.output import replacing_folder
from hyperreg.imaging.volume import Volume
from hyperreg.sheet import Sheet, label_centre, middle_slices, write_sheet

if TYPE_CHECKING:
    from pydicom import Dataset

    from hyperreg.segmentation.catalogue import SegmentationCard


class Segmented(Protocol):
    """What is used of a segmentation. labels: on the grid of the image that was segmented."""

    @property
    def card(self) -> SegmentationCard: ...

    @property
    def labels(self) -> Volume: ...


@dataclass(frozen=True)
class DicomResults:
    """Where to write, and the headers of the image that was segmented."""

    folder: Path
    sources: list[Dataset]
    leave_out_patient: bool

    def write(self, image: Volume, result: Segmented, report: Mapping[str, Any], by_hand: Collection[int] = ()) -> None:
        """Write a segmentation of `image`. Raises FileError if a file cannot be written.

        report: model, created, versions, warnings and structures, as the command line has them. by_hand: labels that a
        user has corrected.
        """
        model = report["model"]
        segmentation_objects.write_segmentation(
            result.labels,
            result.card.structures,
            self.sources,
            self.folder / "segmentation.dcm",
            (model["name"], model["version"]),
            {row["label"]: _uncertainty(row) for row in report["structures"]},
            by_hand,
        )
        rows: dict[str, Any] = {
            **about_series(self.sources[0], "Image"),
            "Model": f"{model['name']} {model['version']}",
            "Made": report["created"],
            "Versions": ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
            **warning_rows(report["warnings"], self.leave_out_patient),
            **{f"{row['name']}, ml": _volumes(row) for row in report["structures"]},
        }
        centre = label_centre(result.labels.array)
        pictures = [
            middle_slices(image, "Image", centre),
            middle_slices(image, "Segmentation", centre, result.labels),
        ]
        write_sheet(Sheet("HyperReg: segmentation", rows, pictures), self.folder)


@contextmanager
def dicom_results(request: DicomRequest | None, image: Path) -> Iterator[DicomResults | None]:
    """Check, before anything is computed, that DICOM can be written of an image; the folder appears at the end.

    Yields None without a request. Raises InputError if the image is no DICOM series, FileError if highdicom is missing
    or the folder is there already or cannot be written.
    """
    if request is None:
        yield None
        return
    segmentation_objects.check_available()
    sources = identity.sources_of(series_of(image), request.leave_out_patient)
    with replacing_folder(request.folder) as folder:
        yield DicomResults(folder, sources, request.leave_out_patient)


def _uncertainty(row: Mapping[str, Any]) -> str:
    return (
        f"{row['volume_ml']:.3f} ml; {row['volume_sure_ml']:.3f} ml where the network is sure, "
        f"{row['volume_doubtful_ml']:.3f} ml with what it doubts (its own probabilities, not calibrated)."
    )


def _volumes(row: Mapping[str, Any]) -> str:
    return f"{row['volume_ml']:.2f} (sure {row['volume_sure_ml']:.2f}, with doubtful {row['volume_doubtful_ml']:.2f})"
