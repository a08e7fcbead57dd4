"""Segmentation in the worker: one case after another, with the model that is loaded already where it is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.catalogue import find_model
from hyperreg.worker import parameters
from hyperreg.worker.device import FELL_BACK, attempt, free_memory
from hyperreg.worker.plain import plain
from hyperreg.worker.server import Context

if TYPE_CHECKING:
    from hyperreg.segmentation.border import Kept
    from hyperreg.segmentation.session import Segmentation, Segmenter

# Where the progress bar is when the model is loaded, and when the other images are aligned with the first.
LOADED, ALIGNED = 0.04, 0.2


def recognise_inputs(context: Context) -> dict[str, Any]:
    """model, and images of one patient called "0", "1" ... -> inputs: name of the model's input -> number of its image
    ({} if it cannot be told), guess: what was guessed and why ("" where names told everything). See `look.recognise`.
    """
    from hyperreg.segmentation import look

    card = find_model(parameters.text(context, "model"))
    volumes = [parameters.volume(context, str(number)) for number in range(len(context.inputs))]
    context.progress(0.0, "Looking which image is which")
    found = look.recognise(volumes, card.inputs)
    return {"inputs": {}, "guess": ""} if found is None else {"inputs": found.images, "guess": found.guess}


class Segmenters:
    """Segments, and keeps the last model loaded: cases mostly come in series. Of the last case alone it keeps what
    borders are moved with.
    """

    def __init__(self) -> None:
        self._case = ""
        self._kept: Kept | None = None
        self._loaded: Segmenter | None = None
        self._key: tuple[object, ...] = ()
        self._fell_back = False

    def segment(self, context: Context) -> dict[str, Any]:
        """The images of one case, by the names of the model's inputs -> fills the outputs labels and uncertainty.

        Parameters: model, device ("auto", "cpu", "cuda"), first (the input on whose grid the outputs are), flips,
        ensemble, hyperparameters (see `Segmenter`), align (bring the other images rigidly to the first one), case (how
        `border` is to call it). Can be cancelled.
        -> volumes (a `StructureVolume` each), device, steps, warnings, seconds, alignment (input -> (4, 4) first RAS
        points to that image's, mm), kept (whether `border` can be asked).
        """
        self._case, self._kept = parameters.text(context, "case"), None
        first = parameters.text(context, "first")
        volumes = {name: parameters.volume(context, name) for name in context.inputs}
        if first not in volumes:
            raise InputError(f"The image '{first}' is missing.")
        flips, align = (parameters.flag(context, name) for name in ("flips", "align"))
        context.progress(0.0, "Loading the model")
        segmenter = self._segmenter(context)
        context.check()
        alignment = _alignment(context, volumes, first) if align and len(volumes) > 1 else {}
        begin = ALIGNED if alignment else LOADED

        def compute() -> Segmentation:
            from hyperreg.imaging.transform import Transform

            return segmenter.segment(
                volumes,
                first=first,
                transforms={name: Transform((matrix,)) for name, matrix in alignment.items()},
                flips=flips,
                keep=True,
                progress=lambda fraction, text: context.progress(begin + (1 - begin) * fraction, text),
                cancelled=context.cancelled,
            )

        # A lack of memory is dealt with inside; what is wanted of `attempt` is that it tells a card that failed.
        result = attempt(compute, on_cpu=True)
        assert result is not None  # noqa: S101  only a fall-back gives None
        context.check()
        context.outputs["labels"][...] = result.labels.array
        context.outputs["uncertainty"][...] = result.uncertainty.array
        self._kept = result.kept
        warnings = [*result.warnings, FELL_BACK] if self._fell_back else result.warnings
        return {
            "volumes": plain(result.volumes),
            "device": result.device,
            "steps": result.steps,
            "warnings": list(dict.fromkeys(warnings)),
            "seconds": plain(result.seconds),
            "alignment": plain(alignment),
            "kept": result.kept is not None,
        }

    def border(self, context: Context) -> dict[str, Any]:
        """case, label -> fills the output levels, see `border.levels`, for that structure of the last case.

        Raises InputError once another case was begun, and for what the case has not got.
        """
        if self._kept is None or parameters.text(context, "case") != self._case:
            raise InputError("Another image was segmented since. Segment this one again to move borders.")
        found = self._kept.levels(parameters.whole(context, "label"))
        context.outputs["levels"][...] = found
        return {}

    def _segmenter(self, context: Context) -> Segmenter:
        from hyperreg.segmentation.session import Segmenter

        card = find_model(parameters.text(context, "model"))
        device = parameters.text(context, "device")
        ensemble, values = parameters.flag(context, "ensemble"), parameters.numbers(context, "hyperparameters")
        # A model that was removed and added again may be another one.
        key = (card.name, card.sha256, str(card.folder), device, ensemble, *sorted(values.items()))
        if self._loaded is not None and self._key == key:
            return self._loaded
        # Freed first: two may not fit into the memory.
        self._loaded = None
        free_memory()
        loaded = attempt(lambda: Segmenter(card, device, values, ensemble), on_cpu=device == "cpu")
        self._fell_back = loaded is None
        self._loaded, self._key = loaded or Segmenter(card, "cpu", values, ensemble), key
        return self._loaded


def _alignment(context: Context, volumes: dict[str, Volume], first: str) -> dict[str, npt.NDArray[np.float64]]:
    """(4, 4), first image's RAS points to another one's, for every other image."""
    from hyperreg.imaging.intensity import check_image
    from hyperreg.registration import linear

    fixed = check_image(volumes[first])
    others = [name for name in volumes if name != first]
    found = {}
    for index, name in enumerate(others):

        def report(fraction: float, text: str, index: int = index) -> None:
            context.progress(LOADED + (ALIGNED - LOADED) * (index + fraction) / len(others), text)

        found[name] = linear.align(fixed, check_image(volumes[name]), "rigid", report, context.cancelled)
    return found
