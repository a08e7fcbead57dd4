"""What the worker can do: the table that `python -m hyperreg.worker` serves.

Everything that imports torch is imported inside functions, at the first request that needs it.
"""

from __future__ import annotations

from typing import Any

from hyperreg.worker import models, parameters
from hyperreg.worker.device import list_devices
from hyperreg.worker.fusers import Fusers
from hyperreg.worker.segmenters import Segmenters, recognise_inputs
from hyperreg.worker.server import Context, Operation
from hyperreg.worker.sessions import Session, SessionFactory, Sessions


def open_live_session(model: str, device: str) -> Session:
    """A LiveSession of that model ("" for the default one)."""
    from hyperreg.registration.catalogue import default_model
    from hyperreg.registration.session import LiveSession

    session: Session = LiveSession(model or default_model(), device=device)
    return session


def standard_operations(factory: SessionFactory = open_live_session) -> dict[str, Operation]:
    """Every operation by its name. factory: makes sessions from a model's name and a device."""
    sessions = Sessions(factory)
    segmenters = Segmenters()
    fusers = Fusers()
    return {
        "prepare": sessions.prepare,
        "field": sessions.field,
        "metrics": sessions.metrics,
        "choose": sessions.choose,
        "constrain": sessions.constrain,
        "close": sessions.close,
        "segment": segmenters.segment,
        "border": segmenters.border,
        "recognise_inputs": recognise_inputs,
        "atlases": fusers.atlases,
        "fuse_atlases": fusers.fuse_atlases,
        "fuse_maps": fusers.fuse_maps,
        "licence": models.licence,
        "add_model": models.add,
        "remove_model": models.remove,
        "devices": _devices,
        "check_model": _check_model,
    }


def _devices(_: Context) -> dict[str, Any]:
    """-> devices: see `device.list_devices`."""
    return {"devices": list_devices()}


def _check_model(context: Context) -> dict[str, Any]:
    """model: name -> name, version, sha256 of a model whose weights are intact and fit its network."""
    from hyperreg.registration.catalogue import find_model
    from hyperreg.registration.model import load_model

    card = find_model(parameters.text(context, "model"))
    if card.has_network:
        load_model(card)
    return {"name": card.name, "version": card.version, "sha256": card.sha256}
