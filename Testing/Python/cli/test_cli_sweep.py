"""`hyperreg sweep`: the table and the plot over lambda."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from cli_pair import PairFiles, run, write_pair

from hyperreg.registration.pairs import Pair
from hyperreg.registration.sweep import sweep


@pytest.fixture
def pair(tmp_path: Path) -> PairFiles:
    return write_pair(tmp_path)


def test_a_row_per_lambda_and_a_plot(pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    table, plot = pair.results / "s.csv", pair.results / "s.png"
    code = run(
        "sweep", *pair.images, *pair.labels, "--model", tiny_model, "--init", "none", "--lambdas", "1, 0,0.5,0",
        "--out", str(table), "--plot", str(plot),
    )  # fmt: skip
    assert code == 0
    with table.open(encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["lambda"] for row in rows] == [0, 0.5, 1]
    assert {"similarity", "folding_percent", "displacement_mean_mm", "dice_3", "dice_7", "dice_12"} <= set(rows[0])
    for row in rows:
        assert row["dice_mean"] == pytest.approx(np.mean([row["dice_3"], row["dice_7"], row["dice_12"]]), abs=1e-5)
        assert row["similarity_before"] == rows[0]["similarity_before"]
    # Even an untrained hypernetwork answers differently to different lambdas.
    assert rows[0]["displacement_mean_mm"] != rows[2]["displacement_mean_mm"]
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(plot)))
    assert image.shape[1] > 800
    assert image[..., :3].std() > 10
    assert pair.left_behind() == ["s.csv", "s.png"]
    best = max(rows, key=lambda row: (row["dice_mean"], row["lambda"]))["lambda"]
    assert f"Suggested: λ = {best:g}. The label maps overlap best there" in capsys.readouterr().out


def test_without_label_maps_the_images_speak(pair: PairFiles, tiny_model: str) -> None:
    plot = pair.results / "s.png"
    asked = Pair(pair.fixed, pair.moving, initial="none", model=tiny_model, device="cpu")
    found = sweep(asked, [0.3, 0.9], plot=plot)
    assert found.response.columns[:2] == ["lambda", "similarity"]
    assert not found.response.knows("dice_mean")
    rows = found.response.rows
    assert found.suggestion.by == "images"
    assert found.suggestion.lam == max(rows, key=lambda row: row["detail"])["lambda"]
    assert plot.is_file()


def test_landmarks_get_a_column_a_plot_and_the_last_word(pair: PairFiles, tiny_model: str) -> None:
    points, plot = pair.fixed.with_name("points.csv"), pair.results / "s.png"
    points.write_text("x,y,z\n10,-20,30\n20,-10,40\n", encoding="utf-8")
    asked = Pair(
        pair.fixed, pair.moving, initial="none", model=tiny_model, device="cpu", fixed_points=points,
        moving_points=points,
    )  # fmt: skip
    found = sweep(asked, [0.3, 0.9], plot=plot)
    assert found.response.column("landmarks_mm_before") == [0, 0]
    assert found.suggestion.by == "landmarks"
    assert found.suggestion.lam == min(found.response.rows, key=lambda row: row["landmarks_mm"])["lambda"]
    assert plot.is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--lambdas", "0,x"], 2, "not a list of numbers"),
        (["--lambdas", "0,2"], 2, "λ"),
        (["--lambdas", ""], 2, "No λ"),
        (["--plot", "RESULTS/plot.gif"], 2, "plot.gif"),
        (["--out", "RESULTS/nowhere/s.csv"], 3, "does not exist"),
    ],
)
def test_a_wrong_request_is_one_clear_line(
    pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    arguments = [word.replace("RESULTS", str(pair.results)) for word in arguments]
    assert run("sweep", *pair.images, "-q", "--init", "none", "--model", tiny_model, *arguments) == code
    assert said in capsys.readouterr().err
    assert pair.left_behind() == []
