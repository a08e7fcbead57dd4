"""What the views of the browser app show, measured in pixels; without a browser, the worker played by the test."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from view_app_bench import SIZE, picture, register

from hyperreg.view.controller import REST_SECONDS
from hyperreg.view.state import BOTH_VIEWS


def test_the_pair_is_open_and_in_sight_at_the_start(app, pair):
    state = app.server.state
    assert state.phase == "idle"
    assert state.fixed_name == pair.fixed.name
    assert state.fixed_info == "48 x 60 x 48, 4 x 4 x 4 mm"
    assert state.moving_labels_name == pair.moving_labels.name
    for name in BOTH_VIEWS:
        image = picture(app, name)
        assert image.mean() > 15  # a head, not a black square
        assert image.std() > 25
        assert image[:, :3].mean() < 12  # all of it in sight: air at the edge


def test_the_letters_at_the_edges_are_the_patients_sides(app):
    from hyperreg.view.furniture import SIDES  # trame-slicer can be imported once an app was made

    letters = {"L": (-1, 0, 0), "R": (1, 0, 0), "P": (0, -1, 0), "A": (0, 1, 0), "S": (0, 0, 1)}
    for name, orientation in BOTH_VIEWS.items():
        to_ras = app.views.view(name).get_view_node().GetSliceToRAS()
        across = [to_ras.GetElement(row, 0) for row in range(3)]  # towards the right edge of the screen
        up = [to_ras.GetElement(row, 1) for row in range(3)]
        left, right, top = (np.array(letters[letter]) for letter in SIDES[orientation])
        assert np.dot(left, across) < -0.9, name
        assert np.dot(right, across) > 0.9, name
        assert np.dot(top, up) > 0.9, name


def test_the_slider_deforms_the_picture_and_only_the_moving_volume(app):
    register(app)
    app.controller.set_mode("fade")
    app.controller.set_fade(1.0)
    app.controller.ask_lambda(1.0)
    app.controller.step()
    rigid = {name: picture(app, name) for name in BOTH_VIEWS}
    app.controller.ask_lambda(0.0)
    app.controller.step()
    for name in BOTH_VIEWS:
        assert np.abs(picture(app, name) - rigid[name]).mean() > 1.0, name
    app.controller.ask_lambda(1.0)
    app.controller.step()
    assert np.abs(picture(app) - rigid["Red"]).mean() < 0.2
    app.controller.set_fade(0.0)
    fixed = picture(app)
    app.controller.ask_lambda(0.0)
    app.controller.step()
    assert np.array_equal(picture(app), fixed)


def test_while_lambda_moves_the_views_are_coarser_but_show_the_same(app):
    for name in BOTH_VIEWS:
        app.views._factory.get_factory_view(name).view_adapter.update_size("test", {"w": SIZE, "h": SIZE})
    node = app.views.view("Red").get_view_node()
    register(app)
    node.SetFieldOfView(*(0.5 * f for f in node.GetFieldOfView()[:2]), node.GetFieldOfView()[2])  # the user zoomed in
    app.live.asked.clear()
    zoomed = node.GetFieldOfView()
    app.controller.ask_lambda(0.8)
    app.controller.step()
    assert node.GetDimensions()[:2] == (SIZE // 2, SIZE // 2)
    assert node.GetFieldOfView() == pytest.approx(zoomed)
    time.sleep(REST_SECONDS + 0.05)
    app.controller.step()
    assert node.GetDimensions()[:2] == (SIZE, SIZE)
    assert node.GetFieldOfView() == pytest.approx(zoomed)


def test_checkerboard_and_side_by_side_show_both_volumes(app):
    app.controller.set_fade(0.0)
    fixed = picture(app)
    app.controller.set_fade(1.0)
    moving = picture(app)
    app.server.state.mode = "checkerboard"
    app.controller.set_mode("checkerboard")
    board = picture(app)
    from_fixed, from_moving = np.isclose(board, fixed, atol=1), np.isclose(board, moving, atol=1)
    assert (from_fixed | from_moving).mean() > 0.98
    assert np.abs(board - fixed).mean() > 1.0
    assert np.abs(board - moving).mean() > 1.0
    app.server.state.mode = "sideBySide"
    app.controller.set_mode("sideBySide")
    assert np.abs(picture(app, "Red") - fixed).mean() < 0.5
    assert np.abs(picture(app, "Red2") - moving).mean() < 0.5
    red, second = app.views.view("Red"), app.views.view("Red2")
    red.set_slice_value(red.get_slice_value() + 12.0)
    assert second.get_slice_value() == pytest.approx(red.get_slice_value())


def test_reset_puts_the_moving_volume_back(app):
    app.controller.set_fade(1.0)
    before = picture(app)
    register(app)
    app.controller.ask_lambda(0.0)
    app.controller.step()
    assert np.abs(picture(app) - before).mean() > 1.0
    app.controller.reset()
    assert app.server.state.phase == "idle"
    assert app.server.state.rows == []
    assert np.abs(picture(app) - before).mean() < 0.2


def test_a_reset_is_undone(app, pair):
    state = app.server.state
    register(app)
    app.controller.ask_lambda(0.1)
    app.controller.step()
    app.live.answer_solved()
    state.fade = 1.0
    app.controller.show()
    before, rows = picture(app), list(state.rows)
    assert not state.can_undo_reset
    app.controller.reset()
    assert (state.phase, state.can_undo_reset) == ("idle", True)
    state.lam = 0.9
    app.controller.ask_lambda(0.9)
    app.controller.step()
    app.controller.undo_reset()
    app.controller.step()
    assert (state.phase, state.lam, state.solved_lam, state.can_save) == ("live", 0.1, 0.1, True)
    assert (state.rows, state.can_undo_reset, state.error) == (rows, False, "")
    assert np.abs(picture(app) - before).mean() < 0.2
    app.controller.reset()
    register(app)
    assert (state.can_undo_reset, app.live.aside) == (False, None)
    app.controller.undo_reset()
    assert state.error == "There is no reset to undo."


def test_the_linear_part_moves_the_picture_to_the_right_side(app):
    """A map that samples the moving volume 12 mm further right shows its content 12 mm further left."""
    register(app)
    app.controller.set_fade(1.0)
    app.controller.ask_lambda(1.0)  # the stand-in's field is zero here
    app.controller.step()
    before = picture(app)
    app.live.linear = np.eye(4)
    app.live.linear[0, 3] = 12.0
    try:
        register(app)
        app.controller.ask_lambda(1.0)
        app.controller.step()
        after = picture(app)
    finally:
        app.live.linear = np.eye(4)
    node = app.views.view("Red").get_view_node()
    pixels = round(12.0 / (node.GetFieldOfView()[0] / SIZE))
    # The patient's right is on the left of the screen, so the patient's left is to the right: the picture moves there.
    moved = [np.abs(np.roll(before, shift, axis=1) - after)[:, 60:-60].mean() for shift in (-pixels, 0, pixels)]
    assert moved[2] < 0.5 * min(moved[0], moved[1])
