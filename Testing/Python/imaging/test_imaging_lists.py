"""Lists in text, as spreadsheets of many countries write them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperreg.errors import FileError
from hyperreg.imaging.lists import read_list

PLAIN = "fixed,moving,name\r\na.nii,b.nii,zwölf\r\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        ("\ufeff" + PLAIN).encode(),
        PLAIN.replace("\r\n", "\r").encode(),
        PLAIN.replace(",", ";").encode("cp1252"),
        PLAIN.replace(",", "\t").encode("utf-16"),
        ("sep=;\r\n" + PLAIN.replace(",", ";")).encode(),
        PLAIN.replace("fixed,moving,name", " Fixed , MOVING,Name ").replace(",b.nii", " , b.nii ").encode(),
        PLAIN.replace("\r\n", ",,\r\n").encode(),
        ("\r\n# my pairs, of today\r\n" + PLAIN + "\r\n,,\r\n# the end\r\n").encode(),
        b'"fixed","moving","name"\n"a.nii","b.nii","zw\xc3\xb6lf"',
    ],
)
def test_lists_of_many_programs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    titles, rows = read_list(tmp_path / "list.csv")
    assert titles == ["fixed", "moving", "name"]
    assert [row for _line, row in rows] == [{"fixed": "a.nii", "moving": "b.nii", "name": "zwölf"}]


def test_rows_know_their_lines_and_may_be_short(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('# pairs\n\nfixed,moving\n\na,"b, c"\n\nd\n', encoding="utf-8")
    assert read_list(tmp_path / "list.csv") == (
        ["fixed", "moving"],
        [(5, {"fixed": "a", "moving": "b, c"}), (7, {"fixed": "d", "moving": ""})],
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"fixed,Moving,moving \na,b,c", "two columns 'moving'"),
        (b"fixed,moving\na,b\na,head,2.nii", "Line 3 .*'2.nii' in a column without a title"),
        (b"fixed,,moving\na,note,b", "Line 2 .*'note' in a column without a title"),
        (b"PK\x03\x04\0\0", "no text"),
        (b"\xff\xfea", "cannot be read"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(FileError, match=words):
        read_list(tmp_path / "list.csv")
    with pytest.raises(FileError, match="cannot be read"):
        read_list(tmp_path / "missing.csv")


def test_a_list_without_anything_is_empty(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("\n\n", encoding="utf-8")
    assert read_list(tmp_path / "list.csv") == ([], [])
