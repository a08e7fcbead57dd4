"""Landmarks from files: every format and coordinate system to RAS mm, and broken files refused in plain words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperreg.errors import FileError
from hyperreg.imaging.points import read_points

RAS = np.array([[10.5, -20.25, 30.0], [-1.0, 2.0, -3.5]])
LPS = RAS * (-1, -1, 1)


def json_of(points: np.ndarray, **values: Any) -> str:
    control = [{"label": f"F-{n}", "position": list(point)} for n, point in enumerate(points)]
    return json.dumps({"markups": [{"type": "Fiducial", "controlPoints": control, **values}]})


def fcsv_of(points: np.ndarray, system: str) -> str:
    rows = [f"{n},{x},{y},{z},0,0,0,1,1,1,0,F-{n},a %s,," for n, (x, y, z) in enumerate(points)]
    head = ["# Markups fiducial file version = 4.11", system, "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label"]
    return "\n".join([*(line for line in head if line), *rows, ""])


def csv_of(points: np.ndarray, header: str) -> str:
    return "\n".join([header, *(",".join(map(str, point)) for point in points)]).lstrip()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.mrk.json", json_of(LPS, coordinateSystem="LPS")),
        ("p.mrk.json", json_of(RAS, coordinateSystem="RAS", coordinateUnits="mm")),
        ("p.fcsv", fcsv_of(LPS, "# CoordinateSystem = LPS")),
        ("p.fcsv", fcsv_of(RAS, "# CoordinateSystem = RAS")),
        ("old.fcsv", fcsv_of(RAS, "# CoordinateSystem = 0")),
        ("old.FCSV", fcsv_of(LPS, "# CoordinateSystem = 1")),
        ("p.csv", csv_of(RAS, "")),
        ("p.csv", "\ufeff" + csv_of(RAS, "X, Y, Z") + "\r\n\r\n"),
        ("p.csv", csv_of(LPS, "l,p,s")),
        ("ants.csv", "x,y,z,t,label\n-10.5,20.25,30,0,1\n1,-2,-3.5,0,2\n"),
        ("table.csv", "label,r,a,s,defined\nα,10.5,-20.25,30,1\nβ,-1,2,-3.5,1\n"),
        ("own.fcsv", "# CoordinateSystem = RAS\n# columns = x,y,z,w,label\n10.5,-20.25,30,1,α\n-1,2,-3.5,1,β\n"),
    ],
)
def test_all_formats_are_ras_mm_in_the_files_order(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    np.testing.assert_array_equal(read_points(path), RAS)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.txt", "1,2,3", "unknown format"),
        ("p.fcsv", fcsv_of(RAS, ""), "RAS or LPS"),
        ("p.fcsv", fcsv_of(RAS, "# CoordinateSystem = 2"), "it says: 2"),
        ("p.fcsv", "# CoordinateSystem = LPS\n0,1,2\n", "point 1 has no three"),
        ("p.fcsv", "# CoordinateSystem = LPS\n", "no points"),
        ("p.mrk.json", json_of(RAS), "RAS or LPS"),
        ("p.mrk.json", json_of(RAS, coordinateSystem="LPS")[:-9], "damaged"),
        ("p.mrk.json", "[]", "damaged"),
        ("p.mrk.json", json.dumps({"markups": [{}, {}]}), "several lists"),
        ("p.mrk.json", json_of(RAS, coordinateSystem="LPS", coordinateUnits="um"), "not in mm"),
        ("p.mrk.json", json_of(RAS[:, :2], coordinateSystem="LPS"), "point 1 has no three"),
        (
            "p.mrk.json",
            json_of(RAS, coordinateSystem="LPS").replace('"F-1",', '"F-1", "positionStatus": "undefined",'),
            "'F-1' has no position",
        ),
        ("p.fcsv", "# CoordinateSystem = RAS\n# columns = id,r,a,s\n1,2,3,4\n", "not x, y, z among others"),
        ("p.csv", "label,l,p,s,defined,selected\nF-1,1,2,3,1,1\nF-2,0,0,0,0,1\n", "'F-2' has no position"),
        ("p.csv", "1,2\n", "point 1 has no three"),
        ("p.csv", "1,2,3\n4;5;6\n", "point 2 has no three"),
        ("p.csv", "1,2,3\nnan,2,3\n", "point 2 has no three"),
        ("p.csv", "i,j,k\n1,2,3\n", "names no columns"),
        ("p.csv", "1,2,3\n4,2e9,6\n", "by up to 2e\\+09 mm"),
        ("p.csv", "1,2,3\n4," + "9" * 400 + ",6\n", "point 2 has no three"),
        ("p.csv", "1,2," + "3" * 200_000, "not a table of points"),
        ("p.mrk.json", "[" * 100_000, "damaged"),
        ("p.mrk.json", '{"markups": [[]]}', "damaged"),
        ("p.mrk.json", '{"markups": [{"controlPoints": [1]}]}', "damaged"),
        ("p.mrk.json", '{"markups": [{"coordinateSystem": "RAS", "controlPoints": [{"position": 5}]}]}', "no three"),
        ("p.csv", "x,y,z\n", "no points"),
        ("p.csv", "", "no points"),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=said) as refused:
        read_points(path)
    assert name in str(refused.value)


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        read_points(tmp_path / "none.csv")
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(FileError, match="not a text file"):
        read_points(tmp_path / "image.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FileError, match="cannot be opened"):
        read_points(tmp_path / "folder.csv")


def test_a_table_that_names_no_system_is_ras_with_a_word(tmp_path: Path) -> None:
    for name, text, said in [
        ("plain.csv", csv_of(RAS, ""), 1),
        ("named.csv", csv_of(RAS, "x,y,z"), 1),
        ("slicer.csv", csv_of(RAS, "r,a,s"), 0),
        ("ants.csv", "x,y,z,t\n1,2,3,0\n", 0),
        ("p.fcsv", fcsv_of(LPS, "# CoordinateSystem = LPS"), 0),
    ]:
        (tmp_path / name).write_text(text, encoding="utf-8")
        warnings: list[str] = []
        read_points(tmp_path / name, warnings)
        assert [("RAS mm" in text, name in text) for text in warnings] == [(True, True)] * said
