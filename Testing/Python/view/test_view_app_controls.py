"""The browser app's controls, metrics and messages without a browser, the worker played by the test."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from view_app_bench import open_phantom, register

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Volume
from hyperreg.registration.catalogue import find_model
from hyperreg.registration.measures import metric_rows
from hyperreg.view.app import serve
from hyperreg.view.state import FusionState, PageState, word


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
    assert not app.server.state.solved
    assert not app.server.state.can_save
    assert not app.server.state.fresh
    app.client.news.append(app.live.answer_solved)
    app.controller.step()
    assert app.server.state.solved
    assert app.server.state.solved_lam == 0.7
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
    for name, nonsense, words in (
        ("device", "/dev/mem", "from the lists"),
        ("alignment", "sideways", "from the lists"),
        ("contrast", "loud", "contrast is one of"),
        ("model", "../secret", "../secret"),
    ):
        before = app.server.state[name]
        app.server.state[name] = nonsense
        app.controller.register()
        assert words in app.server.state.error
        assert app.server.state.phase == "idle"
        app.server.state[name] = before
    app.server.state.mode = "sideways"
    app.controller.set_mode("sideways")
    assert app.server.state.mode == "fade"


def test_metrics_are_shown_with_what_they_were_before(app):
    register(app)
    rows = {row["name"]: (row["before"], row["now"]) for row in app.server.state.rows}
    assert rows["Similarity"] == ("0.500", "0.900")
    assert rows["Overlap (Dice)"] == ("0.400", "0.700")
    assert rows["Folding"] == ("", "0.020 %")
    assert rows["Largest shift"] == ("", "9.3 mm")
    app.controller.ask_lambda(0.9)
    app.controller.step()
    blank = {row["name"]: (row["before"], row["now"]) for row in app.server.state.rows}
    assert list(blank) == list(rows), "no line jumps while λ moves"
    assert blank["Similarity"] == ("0.500", ""), "the alignment is the same; of this λ nothing is known yet"
    assert {now for _before, now in blank.values()} == {""}
    assert metric_rows({"similarity": float("nan")}) == []
    assert [word(lam) for lam in (0, 0.2, 0.5, 0.8, 1)] == [
        "most flexible",
        "flexible",
        "balanced",
        "stiff",
        "most rigid",
    ]


def test_no_model_is_offered_first_and_every_new_pair_begins_with_its_default(app, pair):
    state = app.server.state
    assert state.models[0] == {"title": "None (solver alone)", "value": "none"}
    assert PageState().lam == FusionState().fuse_lam == find_model("none").default_lambda
    before = state.model
    try:
        state.model = "none"
        app.controller.choose_model("none")
        assert state.lam == PageState().lam
        app.controller.ask_lambda(0.8)
        app.controller.step()
        register(app)
        assert app.live.prepared_with["model"] == "none"
        app.controller.choose_model(before)
        assert app.live.lam != find_model(before).default_lambda, "a choice for the next registration moves nothing now"
        open_phantom(app, pair)
        assert state.lam == PageState().lam
    finally:
        state.model = before


def test_the_contrast_is_told_when_a_registration_begins(app):
    assert [entry["value"] for entry in app.server.state.contrasts] == ["auto", "same", "different"]
    app.server.state.contrast = "different"
    app.live.note = "As chosen, the images counted as of different contrasts: the field is kept smoother."
    try:
        register(app)
        assert app.live.prepared_with["contrast"] == "different"
        assert app.server.state.contrast_note == app.live.note
        app.controller.reset()
        assert app.server.state.contrast_note == ""
    finally:
        app.live.note = ""


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
    with pytest.raises(InputError, match="not the address of a computer"):
        serve(compute_on="-oProxyCommand=evil")
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
