"""HyperReg itself: the solver's quick result and full resolution, at the default lambda, the automatic one and over a
grid; and a bundled network alone.

Rows that share their first steps (alignment, preparation) are made in one process; the time of the shared steps is
counted in each of them. Loading a model is not counted, as the peers' import is not.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.registration.case import Case
from benchmarks.registration.method import Outcome, Task, Watch
from hyperreg.imaging.transform import Transform
from hyperreg.registration.catalogue import NO_MODEL
from hyperreg.registration.response import automatic_lambda
from hyperreg.registration.session import LiveSession

# Where the oracle, which knows the truth, may choose from; also the curves over lambda.
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
BRAIN, ANY = "brain", "any"


def curve_row(lam: float) -> str:
    return f"quick λ={lam:g}"


def network_for(case: Case) -> str:
    """The bundled network for the anatomy: for brains the one for brains, for the rest that for any anatomy."""
    return BRAIN if case.body == "brain" else ANY


def _prepared(task: Task, model: str) -> tuple[LiveSession, Watch, dict[str, str | float]]:
    torch.set_num_threads(task.threads)
    fixed, moving = task.read()
    session = LiveSession(str(task.options.get("model") or model), "cpu")
    watch = Watch()
    with watch.running():
        session.prepare(fixed, moving, initial="affine")
    return session, watch, {"model": session.card.name, "model_sha256": session.card.sha256[:12]}


def automatic(task: Task) -> Iterator[Outcome]:
    """ "quick" at the default lambda, "quick auto" and "full auto" at the automatic one.

    No label map, landmark or truth is shown to the search for lambda, which is made on quick results.
    """
    session, shared, notes = _prepared(task, NO_MODEL)
    lam = session.card.default_lambda
    watch = shared.copy()
    with watch.running():
        transform = session.transform(lam, session.quick_stage)
    yield Outcome("quick", transform, watch, notes | {"lambda": lam})
    session._forget_fields()  # what the first row has computed would not be counted in the others
    with shared.running():
        lam = automatic_lambda(session).lam
        transform = session.transform(lam, session.quick_stage)
    yield Outcome("quick auto", transform, shared.copy(), notes | {"lambda": lam})
    yield _full("full auto", session, lam, shared, notes)


def full(task: Task) -> Iterator[Outcome]:
    """Full resolution at the default lambda."""
    session, watch, notes = _prepared(task, NO_MODEL)
    yield _full("full", session, session.card.default_lambda, watch, notes)


def full_oracle(task: Task) -> Iterator[Outcome]:
    """Full resolution at the lambda whose quick result was the best by the truth (options["lambda"])."""
    session, watch, notes = _prepared(task, NO_MODEL)
    yield _full("full oracle", session, float(task.options["lambda"]), watch, notes)


def _full(name: str, session: LiveSession, lam: float, watch: Watch, notes: dict[str, str | float]) -> Outcome:
    with watch.running():
        found = session.finest_fields(lam)
    return Outcome(name, Transform((found.forward, session.linear)), watch, notes | {"lambda": lam})


def network(task: Task) -> Iterator[Outcome]:
    """A bundled network alone, at its card's lambda."""
    session, watch, notes = _prepared(task, network_for(task.case))
    lam = session.card.default_lambda
    with watch.running():
        transform = session.transform(lam)
    yield Outcome("network", transform, watch, notes | {"lambda": lam})


def curve(task: Task) -> Iterator[Outcome]:
    """The quick result at each lambda of the grid; the report takes the best of them, by the truth, as the oracle."""
    session, shared, notes = _prepared(task, NO_MODEL)
    for lam in GRID:
        watch = shared.copy()
        with watch.running():
            transform = session.transform(lam, session.quick_stage)
        yield Outcome(curve_row(lam), transform, watch, notes | {"lambda": lam})
