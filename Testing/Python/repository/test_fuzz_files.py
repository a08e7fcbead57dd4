"""Two hundred damaged files of every kind: right, or refused in words. Thousands of them: make fuzz."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fuzz needs POSIX signals")


def test_damaged_files_are_refused_in_words_or_read_right(tmp_path):
    from Testing.Fuzz.corpus import KINDS, corpus
    from Testing.Fuzz.harness import faults

    (tmp_path / "kept").mkdir()
    kinds = corpus(tmp_path / "whole")
    assert len(kinds) == len(KINDS)
    endings = {seed.damaged.name.partition(".")[2] for seeds in kinds for seed in seeds}
    assert endings >= {
        "nii", "nii.gz", "img", "hdr", "mgh", "mgz", "nrrd", "nhdr", "mha", "tfm", "txt", "h5", "mat", "mrk.json",
        "fcsv", "csv", "tsv", "ctbl", "label", "seg.nrrd", "dcm", "zip", "json", "safetensors", "pt",
    }  # fmt: skip
    tally = Counter()
    found = list(faults(kinds, tmp_path / "kept", 200, tally=tally))
    assert not found, "\n".join(found)
    assert tally["refused"] > 50


def test_the_fuzz_finds_what_it_looks_for(tmp_path, monkeypatch):
    """Readers that fail without words, or give something else, are found out."""
    from Testing.Fuzz import images, maps
    from Testing.Fuzz.harness import faults

    (tmp_path / "kept").mkdir()

    def found_in(seeds, count):
        return list(faults([seeds], tmp_path / "kept", count))

    seeds = images.corpus(tmp_path / "images")
    packed = [seed for seed in seeds if seed.damaged.suffix == ".gz"]
    whole = images.read_volume(packed[0].damaged)

    def read(path):
        raise KeyError("no sentence")

    monkeypatch.setattr(images, "read_volume", read)
    assert len(found_in(packed, 3)) == 3
    monkeypatch.setattr(images, "read_volume", lambda path: type(whole)(whole.array + 1, whole.ijk_to_ras))
    assert "checksum" in found_in(packed, 1)[0]
    empty = type(whole)(whole.array * (whole.array > 600), whole.ijk_to_ras)
    monkeypatch.setattr(images, "read_volume", lambda path: empty)
    found = " ".join(found_in([seed for seed in seeds if seed.damaged.suffix == ".nii"], 20))
    assert "voxels are 0" in found and "slipped" in found
    points = maps.landmarks(tmp_path / "landmarks")
    monkeypatch.setattr(maps, "read_points", lambda path: np.full((8, 3), 1e9))
    assert "mm far" in found_in(points, 3)[0]
    tables = [seed for seed in maps.structures(tmp_path / "structures") if seed.damaged.suffix == ".csv"]
    monkeypatch.setattr(maps, "read_table", lambda path: {0: maps.Meaning("Liver")})
    assert "nonsense" in found_in(tables, 3)[0]
