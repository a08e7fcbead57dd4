"""The learned solver: untrained it is the plain one, in mm; trained it is what its weights say; cards and levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from phantom_bench import COARSE, oblique_phantom
from training_toy import write_config

from hyperreg.errors import InputError, WeightsError
from hyperreg.imaging.intensity import foreground
from hyperreg.imaging.volume import Volume
from hyperreg.nets.solver_update import LONGEST, NEIGHBOURS, SolverUpdate, neighbours_correlation, space_to_depth
from hyperreg.registration.catalogue import read_card
from hyperreg.registration.contrast import SAME
from hyperreg.registration.learned import UpdateModel
from hyperreg.registration.model import load_model, make_model, new_card, save_model
from hyperreg.registration.session import LiveSession
from hyperreg.registration.solver import Solver
from hyperreg.training.config import read_config
from hyperreg.training.registration import Trainer
from hyperreg.training.solver_objective import PLAIN_STEPS, SolverObjective, validate_solver

# The phantom's voxels are 4 mm: its levels have 32, 16, 8 and 4 mm; the quick result ends with 8 mm.
QUICK = 1
LEVELS = [
    {"spacing_mm": 16, "detail": 2, "channels": 4, "width": 4, "steps": 2},
    {"spacing_mm": 8, "detail": 2, "channels": 4, "width": 4, "steps": 2},
]
NETWORK = {"backbone": "solver_update", "options": {"levels": LEVELS}, "hidden": [8, 4], "rank": 2, "passes": 1}


def untrained(seed: int = 0) -> UpdateModel:
    torch.manual_seed(seed)
    model = make_model(NETWORK)
    assert isinstance(model, UpdateModel)
    return model.eval().requires_grad_(False)


def strong() -> UpdateModel:
    """Last convolutions that are heard."""
    model = untrained()
    for update in model.backbone.updates:
        torch.nn.init.normal_(list(update.parameters())[-2], 0, 3.0)
    return model


@pytest.fixture(scope="module")
def solvers() -> dict[str, Solver]:
    """On an oblique, anisotropic, flipped grid: without a model, with an untrained and with a strong one."""
    phantom = oblique_phantom(COARSE)
    body = Volume(foreground(phantom.fixed).astype(np.uint8), phantom.fixed.ijk_to_ras, "foreground")
    models = {"plain": None, "untrained": untrained(), "strong": strong()}
    return {
        name: Solver(phantom.fixed, phantom.moving, phantom.linear, body, SAME, model=model)
        for name, model in models.items()
    }


def field(solver: Solver, lam: float) -> np.ndarray:
    found: np.ndarray = solver.fields(lam, QUICK, "cpu", lambda _done: None).forward.array
    return found


@pytest.mark.parametrize("lam", [0.0, 0.4])
def test_untrained_it_is_the_plain_solver(solvers: dict[str, Solver], lam: float) -> None:
    plain, learned = (field(solvers[name], lam) for name in ("plain", "untrained"))
    assert np.abs(plain).max() > 3
    assert np.linalg.norm(learned - plain, axis=0).max() < 0.05
    assert np.linalg.norm(field(solvers["strong"], lam) - plain, axis=0).max() > 0.5


def test_at_lambda_one_nothing_is_deformed(solvers: dict[str, Solver]) -> None:
    assert np.abs(field(solvers["strong"], 1.0)).max() == 0


def test_whatever_the_weights_are_the_map_does_not_fold(solvers: dict[str, Solver]) -> None:
    phantom = oblique_phantom(COARSE)
    session = LiveSession("none", "cpu")
    session.prepare(phantom.fixed, phantom.moving, initial=phantom.linear, contrast=SAME)
    session._maker.model = strong()  # type: ignore[union-attr]
    assert session.metrics(0.0, QUICK)["folding_percent"] == 0


def test_what_is_added_is_bounded_and_depends_on_lambda() -> None:
    model = strong()
    torch.manual_seed(1)
    fixed, warped = torch.rand(2, 1, 4, 6, 7, 8)
    shown = (fixed, warped, torch.rand(1, 4, 6, 7, 8), torch.rand(1, 3, 6, 7, 8))
    found = []
    for lam in (0.1, 0.9):
        added = model.hyper.run(model.weights(torch.tensor([lam])), 0, *shown)
        assert 0.05 < float(added.norm(dim=1).max()) < LONGEST
        found.append(added)
    assert not torch.allclose(*found)


def test_neighbours_and_depth_lie_where_they_are_said_to() -> None:
    fixed, warped = torch.zeros(2, 1, 2, 4, 5, 6)
    fixed[0, :, 2, 2, 2] = 1
    warped[0, 0, 2, 3, 2] = 2
    found = neighbours_correlation(fixed, warped)
    assert found[0, NEIGHBOURS.index((0, 1, 0)), 2, 2, 2] == 2
    assert found.sum() == 2
    image = torch.arange(4 * 4 * 2).float().view(1, 1, 4, 4, 2)
    depth = space_to_depth(image, 2)
    assert depth.shape == (1, 8, 2, 2, 1)
    assert sorted(depth[0, :, 1, 0, 0].tolist()) == sorted(image[0, 0, 2:, :2].flatten().tolist())


def test_levels_are_told_by_their_voxels() -> None:
    model = untrained()
    assert [model.level_of(mm) for mm in (4, 8, 10.9, 11, 13, 16, 22, 32)] == [None, 1, 1, 1, 0, 0, 0, None]


def test_a_card_describes_it_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    card = save_model(strong(), new_card("learned", NETWORK), tmp_path / "learned")
    loaded = load_model(read_card(card.folder))
    assert isinstance(loaded, UpdateModel)
    assert LiveSession(card, "cpu").model is not None
    with pytest.raises(WeightsError, match="incomplete"):
        make_model({**NETWORK, "options": {"levels": [{"spacing_mm": 8}]}})


def test_training_lowers_the_loss_and_leaves_the_encoders_to_lambda(tmp_path: Path) -> None:
    levels = [{**LEVELS[0], "spacing_mm": 8}, {**LEVELS[1], "spacing_mm": 4, "detail": 1}]
    stage = {"until": 4, "shape": [16, 16, 16], "spacing_mm": [3.0, 4.0]}
    path = write_config(
        tmp_path, learning_rate=0.02, network={**NETWORK, "options": {"levels": levels}},
        grid={"spacing_mm": 4.0, "max_shape": [16, 16, 16], "multiple": 8},
        synthesis={"shape_maps": 2, "shape_size": 48, "stages": [stage], "repeat": 2},
    )  # fmt: skip
    config = read_config(path)
    trainer = Trainer(config)
    assert trainer.pairs[0] is trainer.pairs[1] and trainer.pairs[2] is not trainer.pairs[1]
    model, objective = trainer.model, trainer.objective
    assert isinstance(model, UpdateModel) and isinstance(objective, SolverObjective)
    assert not any(name.startswith("encoders") for name in model.hyper.generated)
    pair = trainer.pairs[0]
    losses = []
    for _ in range(41):
        loss, _parts = objective(pair, [0.1], [PLAIN_STEPS[1]] * 3)
        trainer.optimiser.zero_grad()
        loss.backward()
        trainer.optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.99 * losses[0]
    row = validate_solver(objective, [pair], [0.1])[0]
    assert row["loss"] < row["plain_loss"]
    config.grid["spacing_mm"] = 8.0
    with pytest.raises(InputError, match="too coarse"):
        SolverObjective(model, config)


def test_the_backbone_has_a_part_for_every_level() -> None:
    backbone = SolverUpdate(levels=LEVELS)
    assert len(backbone.encoders) == len(backbone.updates) == 2
