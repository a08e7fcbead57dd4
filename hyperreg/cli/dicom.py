"""`hyperreg dicom`: which series a folder, DICOMDIR or zip holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hyperreg.cli.console import guarded, messages, output, warn

EXAMPLES = """Examples:

hyperreg dicom CD/DICOMDIR

hyperreg register CD/DICOMDIR#2 CD/DICOMDIR#5 --out-volume registered.nii.gz"""


@guarded
def command(
    source: Annotated[Path, typer.Argument(metavar="FOLDER|DICOMDIR|ZIP", help="What holds the DICOM files.")],
    patients: Annotated[
        bool, typer.Option("--patients", help="Show the patients' IDs, too. Without it they are only counted.")
    ] = False,
) -> None:
    """List the DICOM series: number, modality, description, date, images, and why a series is no volume.

    Only headers are read. Where a command takes an image, SOURCE#NUMBER means the series with this number.
    """
    from hyperreg.imaging.dicom import list_series
    from hyperreg.imaging.streams import check_there

    check_there(source, folders=True)
    listing = list_series(source)
    warn(list(listing.warnings))
    table = Table("#", "modality", "description", "date", "images", "e.g.", *(["patient"] if patients else []), "")
    for number, series in enumerate(listing.series, 1):
        row = [str(number), series.modality, series.description, series.date, str(series.images), series.example]
        table.add_row(*row, *([series.patient] if patients else []), series.problem)
    output.print(table, markup=False)
    if not listing.series:
        messages.print("There are no DICOM files.")
    elif listing.patients > 1:
        warn([f"These are series of {listing.patients} patients."])
