"""DICOM files to which something happened: refused, or read with a warning, never shorter or shifted in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dicom_examples import check, write_slices

from hyperreg.errors import FileError
from hyperreg.imaging.files import read_volume


def test_bytes_that_came_into_a_file_or_behind_its_pixels(tmp_path: Path) -> None:
    """As a transfer in text mode does it: the pixels move, and the last of them lie behind where they should end."""
    files = write_slices(tmp_path)
    whole = files[4].read_bytes()
    for raw in (whole[:-200] + b"\r" + whole[-200:], whole[:-200] + b"\1\2\3\4\5\6" + whole[-200:]):
        files[4].write_bytes(raw)
        with pytest.raises(FileError, match=r"slice004\.dcm' is damaged: bytes were inserted"):
            read_volume(tmp_path)
    for file in files[4:6]:
        file.write_bytes(whole if file == files[4] else file.read_bytes())
        file.write_bytes(file.read_bytes() + bytes(512))
    volume = read_volume(tmp_path)
    check(volume)
    assert [text for text in volume.warnings if "zeros" in text or "same" in text] == [
        "'slice004.dcm' has 512 zeros behind its pixels. Does the image look right?",
        f"The same is true of 1 other file(s) of '{tmp_path.name}'.",
    ]
    padding = b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\0\0\0\0"
    files[4].write_bytes(whole + padding)
    files[5].write_bytes(files[5].read_bytes()[:-512])
    assert read_volume(tmp_path).warnings == ()


@pytest.mark.parametrize("place", [0, 11])
@pytest.mark.parametrize(
    "harm",
    [
        lambda raw: raw[:128] + b"DIXM" + raw[132:],  # no mark: no DICOM
        lambda raw: raw[:81],
        lambda raw: raw.replace(b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10008.5.1.4.1.1.0")[
            : raw.index(b"\x08\0\x60\0")
        ],  # of no known kind, and of no series
        lambda raw: raw.replace(b"\x28\0\x10\0US", b"\x28\0\x10\1US", 1),  # no Rows: no image
        lambda raw: raw[:900].replace(b"1.2.840.10008.5.1.4.1.1.2", b"1.2.8*0.10008.5.1.4.1.1.2") + raw[900:],
    ],
)
def test_a_damaged_slice_at_the_end_is_not_left_out_without_a_word(
    tmp_path: Path, place: int, harm: Callable[[bytes], bytes]
) -> None:
    files = write_slices(tmp_path)
    raw = files[place].read_bytes()
    files[place].write_bytes(harm(raw))
    assert files[place].read_bytes() != raw
    volume = read_volume(tmp_path)
    assert volume.shape[2] == 11
    assert any("1 file(s) cannot be read and were left out" in text for text in volume.warnings)
    (tmp_path / "notes.txt").write_text("not DICOM, and not called so\n" * 60)
    (tmp_path / "._slice003.dcm").write_bytes(b"\0\5\26\7" + bytes(200))  # what macOS leaves beside every file
    assert read_volume(tmp_path).warnings == volume.warnings
