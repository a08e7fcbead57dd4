"""Two hundred damaged image files: right, or refused in words. Thousands of them: make fuzz."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fuzz needs POSIX signals")


def test_damaged_files_are_refused_in_words_or_read_right(tmp_path):
    from Testing.Fuzz.images import corpus, faults

    for name in ("whole", "kept"):
        (tmp_path / name).mkdir()
    seeds = corpus(tmp_path / "whole")
    assert {seed.damaged.suffix for seed in seeds} >= {
        ".nii",
        ".gz",
        ".img",
        ".hdr",
        ".mgh",
        ".mgz",
        ".nrrd",
        ".nhdr",
        ".mha",
    }
    found = list(faults(seeds, tmp_path / "kept", 200))
    assert not found, "\n".join(found)


def test_the_fuzz_finds_what_it_looks_for(tmp_path, monkeypatch):
    """Readers that fail without words, or give other voxels, are found out."""
    from Testing.Fuzz import images

    for name in ("whole", "kept"):
        (tmp_path / name).mkdir()
    seeds = [seed for seed in images.corpus(tmp_path / "whole") if seed.damaged.suffix == ".gz"]
    whole = seeds[0].volume

    def read(path):
        raise KeyError("no sentence")

    monkeypatch.setattr(images, "read_volume", read)
    assert len(list(images.faults(seeds, tmp_path / "kept", 3))) == 3
    monkeypatch.setattr(images, "read_volume", lambda path: type(whole)(whole.array + 1, whole.ijk_to_ras))
    assert "checksum" in next(images.faults(seeds, tmp_path / "kept", 1))
    empty = type(whole)(whole.array * (whole.array > 600), whole.ijk_to_ras)
    monkeypatch.setattr(images, "read_volume", lambda path: empty)
    seeds = [seed for seed in images.corpus(tmp_path / "whole") if seed.damaged.suffix == ".nii"]
    found = " ".join(images.faults(seeds, tmp_path / "kept", 20))
    assert "voxels are 0" in found and "slipped" in found
