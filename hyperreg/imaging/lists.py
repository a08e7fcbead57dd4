"""Lists in text, a line of titles and a row for each thing, as spreadsheets of all countries write them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from hyperreg.errors import FileError

SEPARATORS = "\t;,"


def decoded(raw: bytes) -> str:
    """Text in whatever encoding a spreadsheet chose. Raises ValueError for what is no text."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    if b"\0" in raw:
        raise ValueError("it is no text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252")


def read_list(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The titles, in lower case, and each row's line, from 1, with its cells by title; all without blanks around.

    Empty rows, comments (#), empty columns, and the line "sep=;" that Excel knows are left out. Raises FileError for
    what is no such list: also for a title that stands twice, and cells beyond the titles, which a separator within a
    name makes.
    """
    try:
        text = decoded(path.read_bytes())
        lines = text.splitlines()
        start = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), 0)
        named = lines[start].strip()[4:] if lines and lines[start].casefold().startswith("sep=") else ""
        start += bool(named)
        first = lines[start] if start < len(lines) else ""
        separator = named or max(SEPARATORS, key=first.count)
        reader = csv.reader(io.StringIO("\n".join(lines[start:])), delimiter=separator, skipinitialspace=True)
        rows = [(start + reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise FileError(f"The list '{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise FileError(f"'{path}' cannot be read as a list in text, separated by commas: {error}.") from error
    rows = [(line, row) for line, row in rows if any(row) and not row[0].startswith("#")]
    titles = [cell.casefold() for cell in rows[0][1]] if rows else []
    if doubled := [title for title in titles if title and titles.count(title) > 1]:
        raise FileError(f"'{path}' has two columns '{doubled[0]}': leave one out.")
    for line, row in rows[1:]:
        if beyond := [cell for n, cell in enumerate(row) if cell and (n >= len(titles) or not titles[n])]:
            raise FileError(
                f"Line {line} of '{path}' has '{beyond[0]}' in a column without a title. A name with a '{separator}' "
                "has to stand in quotes."
            )
    found = [
        (line, {title: row[n] if n < len(row) else "" for n, title in enumerate(titles) if title})
        for line, row in rows[1:]
    ]
    return [title for title in titles if title], found
