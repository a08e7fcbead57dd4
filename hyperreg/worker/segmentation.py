"""Segmentation as the application sees it: volumes in, a label map with its figures back. numpy only, no torch.

Used by the Slicer module and the browser app alike:

    client = WorkerClient()
    segmenter = RemoteSegmenter(client)
    segmenter.on_done = lambda segmented: show(segmented.labels, segmented.card.structures)
    segmenter.on_error = message
    segmenter.segment({"image": volume}, model="brain-anatomy")
    ...  # now and then, from a timer: client.poll()

The models there are: `hyperreg.segmentation.catalogue.list_models`; `card.inputs` says how many images, by which names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.catalogue import SegmentationCard, find_model
from hyperreg.segmentation.structures import StructureVolume, label_type
from hyperreg.worker.client import Outputs, WorkerClient
from hyperreg.worker.jobs import Job
from hyperreg.worker.plain import record
from hyperreg.worker.remote import Remote


@dataclass(frozen=True)
class Segmented:
    """The result of one case.

    labels: (I, J, K) uint8 or uint16, `uncertainty`: (I, J, K) float32, entropy 0 to 1, not calibrated; both on the
    grid of the first image. volumes: every structure of the card, in its order, empty ones too.
    steps: in words, how it was computed; the last one is the one that worked. seconds: per stage.
    alignment: input name -> (4, 4), first image's RAS points to that input's, mm; {} unless asked for.
    case: for `RemoteSegmenter.border`; "" where the engine has too little memory to keep what that needs.
    by_hand: labels of structures that a user has corrected since.
    """

    card: SegmentationCard
    labels: Volume
    uncertainty: Volume
    volumes: list[StructureVolume]
    device: str
    steps: list[str]
    warnings: list[str]
    seconds: dict[str, float]
    alignment: dict[str, npt.NDArray[np.float64]]
    case: str
    by_hand: frozenset[int] = frozenset()


def recognise_inputs(
    client: WorkerClient,
    volumes: Sequence[Volume],
    model: str,
    on_done: Callable[[dict[str, int], str], None],
    on_error: Callable[[str], None],
) -> Job:
    """Asks the worker which volume is which input of a model, by names and by a look; returns at once.

    volumes: of one patient, no fewer than the model has inputs, up to eight; they are copied.
    on_done(inputs, guess), from `client.poll()`: input name -> index in `volumes`, {} if it cannot be told; what was
    guessed and why, for the user to check, "" where the names told everything. on_error(text): in words for the user.
    Raises OutOfMemory if there is no room for the copies. Takes some seconds; `job.cancel()` gives it up.
    """
    named = {str(number): volume for number, volume in enumerate(volumes)}
    places = {
        number: {"name": volume.name, "ijk_to_ras": volume.ijk_to_ras.tolist()} for number, volume in named.items()
    }
    job = client.submit(
        "recognise_inputs",
        {"model": model, "volumes": places},
        {number: volume.array for number, volume in named.items()},
    )
    job.on_done = lambda done: on_done(dict(done.result["inputs"]), done.result["guess"])
    job.on_failed = lambda failed: on_error(failed.error)
    return job


class RemoteSegmenter(Remote):
    """Segments in the worker, one case at a time. on_done(segmented). The rest: see `Remote`."""

    BUSY = "A segmentation is still running. Wait for it, or cancel it first."

    def __init__(self, client: WorkerClient) -> None:
        super().__init__(client)
        # The case of which the worker keeps what borders need, and which start of the worker that was.
        self._kept: tuple[str, int] = ("", 0)

    def recognise(
        self,
        volumes: Sequence[Volume],
        model: str,
        on_done: Callable[[dict[str, int], str], None],
        on_error: Callable[[str], None],
    ) -> Job:
        """See `recognise_inputs`."""
        return recognise_inputs(self._client, volumes, model, on_done, on_error)

    def segment(
        self,
        volumes: Mapping[str, Volume],
        model: str,
        *,
        first: str | None = None,
        device: str = "auto",
        flips: bool = False,
        align: bool = False,
        ensemble: bool = False,
        hyperparameters: Mapping[str, float] | None = None,
    ) -> Job:
        """Starts segmenting one case and returns at once; the images are copied.

        volumes: by the names of the model's inputs. first: the one on whose grid the result is wanted (the card's first
        one). device: "auto", "cpu" or "cuda". flips: average over flipped images, if the model was trained with them.
        align: bring the other images rigidly to the first one; otherwise headers are trusted.
        ensemble: average over all weights of the model. hyperparameters: values by name, for models that declare any.
        Raises InputError for missing images or while another case is running, WeightsError without the model,
        OutOfMemory if there is no room for the copies. What the model refuses comes through `on_error`.
        """
        self._check_idle()
        card = find_model(model)
        names = [entry.name for entry in card.inputs]
        missing = [name for name in names if name not in volumes]
        if missing or len(volumes) > len(names):
            raise InputError(
                f"The model '{card.name}' wants the images {', '.join(names)}, and was given "
                f"{', '.join(volumes) or 'none'}."
            )
        first = first or names[0]
        shape = volumes[first].shape
        parameters = {
            "model": card.name,
            "device": device,
            "first": first,
            "flips": flips,
            "align": align,
            "ensemble": ensemble,
            "hyperparameters": dict(hyperparameters or {}),
            "case": uuid4().hex,
        }
        affine = volumes[first].ijk_to_ras.copy()
        outputs: Outputs = {"labels": (shape, label_type(card)), "uncertainty": (shape, np.float32)}
        self._kept = ("", 0)

        def result(job: Job) -> Segmented:
            case = str(parameters["case"]) if job.result["kept"] else ""
            self._kept = (case, job.generation)
            return _segmented(job, card, affine, case)

        return self._submit("segment", parameters, volumes, outputs, result)

    def keeps(self, case: str) -> bool:
        """Whether `border` can be asked about a case: the last one, as long as the worker that did it runs."""
        return bool(case) and self._client.alive and self._kept == (case, self._client.generation)

    def border(
        self,
        segmented: Segmented,
        label: int,
        on_done: Callable[[npt.NDArray[np.int8]], None],
        on_error: Callable[[str], None],
    ) -> Job:
        """Asks where the border of a structure of the last result can run; returns at once. The newest call counts.

        on_done(levels), from `client.poll()`: (I, J, K) of the label map, see `segmentation.border`.
        on_error(text): in words for the user, if `keeps` was no longer true, say.
        """
        outputs: Outputs = {"levels": (segmented.labels.shape, np.int8)}
        parameters = {"case": segmented.case, "label": label}
        job = self._client.submit("border", parameters, stream="border", outputs=outputs)
        job.on_done = lambda done: on_done(done.arrays["levels"])
        job.on_failed = lambda failed: on_error(failed.error)
        return job


def _segmented(job: Job, card: SegmentationCard, affine: npt.NDArray[np.float64], case: str) -> Segmented:
    result = job.result
    return Segmented(
        card=card,
        labels=Volume(job.arrays["labels"], affine, "segmentation"),
        uncertainty=Volume(job.arrays["uncertainty"], affine, "uncertainty"),
        volumes=[record(StructureVolume, values) for values in result["volumes"]],
        device=result["device"],
        steps=list(result["steps"]),
        warnings=list(result["warnings"]),
        seconds=dict(result["seconds"]),
        alignment={name: np.array(matrix) for name, matrix in result["alignment"].items()},
        case=case,
    )
