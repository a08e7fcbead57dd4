"""Tables in documents, between markers of their own."""

from __future__ import annotations

from pathlib import Path

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
