"""What benchmarks write: tables in documents, between markers of their own, and rows beside them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "README.md"
# Every table but the one of the front page.
BENCHMARKS = README.parent / "docs" / "benchmarks" / "README.md"


def replace_section(path: Path, section: str, text: str) -> None:
    """Replace what stands between the section's markers; a file without them stays as it is."""
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    if found:
        after = rest.split(end)[1]
        path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A CSV file of rows, with a column for every name that one of them has."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
