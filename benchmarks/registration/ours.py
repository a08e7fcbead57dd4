"""HyperReg itself: the network at its card's lambda, at the automatic one and over a grid, with and without refinement.

Rows that share their first steps (alignment, preparation) are made in one process; the time of the shared steps is
counted in each of them. Loading the model is not counted, as the peers' import is not.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.registration.case import Case
from benchmarks.registration.method import Outcome, Task, Watch
from hyperreg.imaging.transform import Transform
from hyperreg.registration.catalogue import default_model, list_models
from hyperreg.registration.response import automatic_lambda
from hyperreg.registration.session import LiveSession

# Where the oracle, which knows the truth, may choose from; also the curves over lambda.
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
BRAIN, ANY = "brain", "any"


def curve_row(lam: float) -> str:
    return f"network λ={lam:g}"


def model_for(case: Case) -> str:
    """The bundled model that a user would choose: for brains the one for brains, for the rest that for any anatomy."""
    names = [card.name for card in list_models()]
    wanted = BRAIN if case.body == "brain" else ANY
    return wanted if wanted in names else default_model()


def _prepared(task: Task) -> tuple[LiveSession, Watch, dict[str, str | float]]:
    torch.set_num_threads(task.threads)
    fixed, moving = task.read()
    session = LiveSession(str(task.options.get("model") or model_for(task.case)), "cpu")
    watch = Watch()
    with watch.running():
        session.prepare(fixed, moving, initial="affine")
    return session, watch, {"model": session.card.name, "model_sha256": session.card.sha256[:12]}


def automatic(task: Task) -> Iterator[Outcome]:
    """ "network" at the card's lambda, "network auto" and "refined auto" at the automatic one.

    No label map, landmark or truth is shown to the search for lambda, which is made on the network's fields.
    """
    session, shared, notes = _prepared(task)
    lam = session.card.default_lambda
    watch = shared.copy()
    with watch.running():
        transform = session.transform(lam)
    yield Outcome("network", transform, watch, notes | {"lambda": lam})
    session._forget_fields()  # what the first row has computed would not be counted in the others
    with shared.running():
        lam = automatic_lambda(session).lam
        transform = session.transform(lam)
    yield Outcome("network auto", transform, shared.copy(), notes | {"lambda": lam})
    yield _refined("refined auto", session, lam, shared, notes)


def refined(task: Task) -> Iterator[Outcome]:
    """Refinement at the card's lambda."""
    session, watch, notes = _prepared(task)
    yield _refined("refined", session, session.card.default_lambda, watch, notes)


def refined_oracle(task: Task) -> Iterator[Outcome]:
    """Refinement at the lambda that was the network's best by the truth (options["lambda"])."""
    session, watch, notes = _prepared(task)
    yield _refined("refined oracle", session, float(task.options["lambda"]), watch, notes)


def _refined(name: str, session: LiveSession, lam: float, watch: Watch, notes: dict[str, str | float]) -> Outcome:
    with watch.running():
        found = session.refine(lam)
    transform = Transform((found.fields.forward, session.linear))
    return Outcome(name, transform, watch, notes | {"lambda": lam, "message": found.text})


def curve(task: Task) -> Iterator[Outcome]:
    """The network at each lambda of the grid; the report takes the best of them, by the truth, as the oracle."""
    session, shared, notes = _prepared(task)
    for lam in GRID:
        watch = shared.copy()
        with watch.running():
            transform = session.transform(lam)
        yield Outcome(curve_row(lam), transform, watch, notes | {"lambda": lam})
