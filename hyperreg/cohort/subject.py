"""One registration of a template to a subject: a task that any machine can do, and that is done once."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import hyperreg
from hyperreg.errors import FileError
from hyperreg.execution.executors import check_mark
from hyperreg.fusion.cache import Cache, content_hash, key_of
from hyperreg.fusion.registering import Registered, Task, register_atlas
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.intensity import check_image
from hyperreg.registration.catalogue import find_model
from hyperreg.registration.linear import align
from hyperreg.reporting import Cancel, Progress


@dataclass(frozen=True)
class SubjectTask:
    """A template and a subject, files; what is found is kept in the folder `work` under `key`.

    linear: rows of the map from template to subject, RAS mm; None if it has to be found, by the alignment `method`.
    image_hash, template_hash: of the files' content. mark: see `executors.mark`.
    """

    name: str
    image: Path
    image_hash: str
    template: Path
    template_hash: str
    work: Path
    mark: str
    model: str
    method: str = "affine"
    linear: tuple[tuple[float, ...], ...] | None = None
    lam: float = 0.0
    fast: bool = True
    device: str = "auto"

    @property
    def key(self) -> str:
        return key_of(
            version=hyperreg.__version__,
            model=find_model(self.model).sha256,
            images=[self.template_hash, self.image_hash],
            how=self.method if self.linear is None else [self.linear, self.lam, self.fast],
        )


def results_of(work: Path) -> Cache:
    """What tasks have kept in a folder; nothing is thrown away."""
    return Cache(work, sys.maxsize)


def register_subject(task: SubjectTask, progress: Progress, cancelled: Cancel | None = None) -> bool:
    """Do a task, unless its result is there already; returns whether it had to be done. Raises HyperRegError."""
    check_mark(task.work, task.mark)
    kept = results_of(task.work)
    key = task.key
    if kept.load(key) is not None:
        return False
    template, image = (check_image(read_volume(path)) for path in (task.template, task.image))
    if content_hash(image) != task.image_hash or content_hash(template) != task.template_hash:
        raise FileError(f"'{task.image}' or the template was changed while the template was made. Start again.")
    if task.linear is None:
        found = Registered(align(template, image, task.method, progress, cancelled, symmetric=True), None, {})
    else:
        linear = np.array(task.linear)
        how = Task(task.name, template, image, task.model, task.lam, task.fast, task.device, linear)
        found = register_atlas(how, progress, cancelled)
    kept.save(key, found)
    if kept.problem:
        raise FileError(kept.problem)
    return True
