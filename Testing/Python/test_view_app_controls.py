"""The browser app's controls, figures and messages without a browser, the worker played by the test."""

# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from view_app_bench import app, module_app, pair, pair_files, register  # noqa: F401

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Volume
from hyperreg.view.app import serve
from hyperreg.view.state import metric_rows, word


def test_register_gives_the_worker_the_pair_as_it_lies_in_space(app, pair):
    app.controller.register()
    assert app.server.state.phase == "running"
    given = app.live.prepared_with
    for role in ("fixed", "moving", "fixed_labels", "moving_labels"):
        expected: Volume = getattr(pair, role)
        assert (
            np.abs(given[role].grid.corners - expected.grid.corners).max() < 1e-3
        )  # mm; oblique, flipped, anisotropic
        assert np.array_equal(given[role].array, expected.array)
    assert (given["initial"], given["device"], given["model"]) == ("affine", "auto", "tiny-untrained")
    app.client.news.append(lambda: app.live.progress(0.25, "Aligning"))
    app.controller.step()
    assert (app.server.state.progress, app.server.state.progress_text) == (25.0, "Aligning")
    app.controller.cancel()
    assert app.server.state.phase == "idle"
    assert "cancel" in app.live.calls


def test_only_the_newest_lambda_is_taken(app):
    register(app)
    app.live.asked.clear()
    for lam in (0.4, 0.5, 0.6, 0.7):
        app.controller.ask_lambda(lam)
    app.controller.step()
    assert app.live.asked == [0.7]
    assert app.server.state.lam_word == "stiff"
    assert not app.server.state.exact
    assert not app.server.state.can_save
    assert not app.server.state.fresh
    app.client.news.append(app.live.answer_exact)
    app.controller.step()
    assert app.server.state.exact
    assert app.server.state.can_save
    assert app.server.state.fresh


@pytest.mark.parametrize("nonsense", [-0.1, 1.01, "0.5", None, float("nan"), True, {"lam": 1}])
def test_nonsense_from_the_browser_is_refused_in_words(app, nonsense):
    register(app)
    app.live.asked.clear()
    app.controller.ask_lambda(nonsense)
    app.controller.step()
    assert app.live.asked == []
    assert "between 0" in app.server.state.error
    assert app.server.state.lam == 0.3


def test_choices_from_outside_the_lists_are_refused(app):
    app.server.state.device = "/dev/mem"
    app.controller.register()
    assert "from the lists" in app.server.state.error
    assert app.server.state.phase == "idle"
    app.server.state.mode = "sideways"
    app.controller.set_mode("sideways")
    assert app.server.state.mode == "fade"


def test_figures_are_shown_with_what_they_were_before(app):
    register(app)
    rows = {row["name"]: (row["before"], row["now"]) for row in app.server.state.rows}
    assert rows["Similarity"] == ("0.500", "0.900")
    assert rows["Overlap (Dice)"] == ("0.400", "0.700")
    assert rows["Folding"] == ("", "0.020 %")
    assert rows["Largest shift"] == ("", "9.3 mm")
    assert metric_rows({"similarity": float("nan")}) == []
    assert [word(lam) for lam in (0, 0.2, 0.5, 0.8, 1)] == [
        "most flexible",
        "flexible",
        "balanced",
        "stiff",
        "most rigid",
    ]


def test_an_error_of_the_worker_is_told_and_the_next_registration_works(app):
    app.controller.register()
    app.client.news.append(lambda: app.live.fail("The worker has ended (out of memory)."))
    app.controller.step()
    assert app.server.state.error == "The worker has ended (out of memory)."
    assert app.server.state.phase == "idle"
    register(app)
    assert app.server.state.phase == "live"
    assert app.server.state.error == ""


def test_whatever_goes_wrong_the_clock_goes_on(app):
    def surprise() -> None:
        raise ZeroDivisionError

    app.client.news.append(surprise)
    app.controller.step()
    assert "unexpected" in app.server.state.error
    app.client.news = []
    register(app)
    assert app.server.state.phase == "live"


def test_starting_with_one_image_or_an_unknown_device_is_refused(pair_files):
    with pytest.raises(InputError, match="Unknown device"):
        serve(device="tpu")
    with pytest.raises(InputError, match="Keep the token"):
        serve(host="0.0.0.0", token="none")  # noqa: S104
    with pytest.raises(InputError, match="both images"):
        serve(pair_files[0], token="none")


def test_the_server_process_never_loads_torch(tmp_path, tiny_models):
    code = (
        "import sys; from hyperreg.view.app import App, Options; App(Options(token='none'));"
        "print('torch' in sys.modules, 'monai' in sys.modules)"
    )
    environment = {**os.environ, "HYPERREG_MODELS": str(tiny_models), "TRAME_ARGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == ["False", "False"], done.stderr
