"""Models that the user adds and removes. Reading foreign weights needs torch, so that the worker does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperreg.segmentation.catalogue import find_model
from hyperreg.worker import parameters
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job
from hyperreg.worker.server import Context


def licence(context: Context) -> dict[str, Any]:
    """source: a model's folder or .zip -> licence: the text that comes with it, or that none does."""
    from hyperreg.segmentation import licences
    from hyperreg.segmentation.bundles import licence_text

    return {"licence": licence_text(Path(parameters.text(context, "source"))) or licences.NO_LICENCE}


def add(context: Context) -> dict[str, Any]:
    """source: see `licence` -> name of the model, which is in the catalogue now, its licence accepted."""
    from hyperreg.catalogue import own_models
    from hyperreg.segmentation import licences
    from hyperreg.segmentation.bundles import add_model

    card = add_model(Path(parameters.text(context, "source")), own_models())
    licences.accept(card)
    return {"name": card.name}


def remove(context: Context) -> dict[str, Any]:
    """model: the name of one that was added -> nothing; its files are gone."""
    from hyperreg.catalogue import own_models
    from hyperreg.segmentation import licences
    from hyperreg.segmentation.bundles import remove_model

    card = find_model(parameters.text(context, "model"))
    remove_model(card, own_models())
    licences.forget(card)
    return {}


class ModelStore:
    """The application's side: each call returns at once, and one of its callbacks comes from `client.poll()`.

    on_error(text): in words for the user.
    """

    def __init__(self, client: WorkerClient, on_error: Callable[[str], None]) -> None:
        self._client = client
        self._on_error = on_error

    def licence(self, source: str, on_done: Callable[[str], None]) -> None:
        """on_done(text): the licence, to be shown before the model is added. source: a folder, a .zip or a model.pt."""
        self._ask("licence", {"source": _source(source)}, lambda job: on_done(job.result["licence"]))

    def add(self, source: str, on_done: Callable[[str], None]) -> None:
        """on_done(name): the model is in the catalogue. To be called once the user has accepted its licence."""
        self._ask("add_model", {"source": _source(source)}, lambda job: on_done(job.result["name"]))

    def remove(self, model: str, on_done: Callable[[], None]) -> None:
        """on_done(): the model is gone."""
        self._ask("remove_model", {"model": model}, lambda _job: on_done())

    def _ask(self, operation: str, values: dict[str, Any], on_done: Callable[[Job], None]) -> None:
        job = self._client.submit(operation, values)
        job.on_done = on_done
        job.on_failed = lambda failed: self._on_error(failed.error)


def _source(chosen: str) -> str:
    """What holds the model: of an Auto3DSeg model.pt the folder, where labels.csv lies."""
    path = Path(chosen.strip()).expanduser().absolute()  # the worker runs elsewhere
    return str(path.parent if path.suffix == ".pt" else path)
