"""Label fusion as the application sees it: a target and its atlases in, a consensus and its metrics back.

numpy only, no torch. Used by the Slicer module and the browser app alike:

    fuser = RemoteFuser(client)
    fuser.on_done = lambda fused: show(fused.labels, fused.structures)
    fuser.on_atlas = lambda atlas: show_row(atlas.name, atlas.state, atlas.fraction)
    fuser.fuse_atlases(volume, folder, lam=0.3)
    ...  # now and then, from a timer: client.poll()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.fusion.records import AtlasFiles, AtlasProgress, Learned, Rater, StructureVolumes
from hyperreg.imaging.structures import Structure
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job
from hyperreg.worker.plain import plain, record
from hyperreg.worker.remote import Remote

THUMBNAILS, THUMBNAIL = 64, 96


@dataclass(frozen=True)
class FusedStructure:
    """A structure of the consensus, and its volumes."""

    structure: Structure
    volumes: StructureVolumes


@dataclass(frozen=True)
class EarlyAnswer:
    """What is known while data parameters are learned. labels, disagreement: see `Fused`; structures: of the labels."""

    learned: Learned
    labels: Volume
    disagreement: Volume
    structures: list[Structure]


@dataclass(frozen=True)
class Fused:
    """The consensus. labels: (I, J, K) int32; disagreement: (I, J, K) float32, share of maps that differ, 0..1.

    learned: the data parameters, for the method "dp".
    """

    method: str
    labels: Volume
    disagreement: Volume
    structures: list[FusedStructure]
    raters: list[Rater]
    disputed_percent: float
    warnings: list[str]
    seconds: float
    learned: Learned | None = None


@dataclass(frozen=True)
class FoundAtlas:
    """An atlas that was looked at. problem: why it cannot be used, or "". thumbnail: (96, 96, 3) uint8, else None."""

    name: str
    image: str
    labels: str
    problem: str
    thumbnail: npt.NDArray[np.uint8] | None


class RemoteFuser(Remote):
    """Fuses in the worker, one target at a time. on_done(fused). The rest: see `Remote`.

    on_atlas(atlas): one atlas is further. on_answer(answer): an early one, still improving; `finish` makes it the
    result.
    """

    BUSY = "A fusion is still running. Wait for it, or cancel it first."

    def __init__(self, client: WorkerClient) -> None:
        super().__init__(client)
        self.on_atlas: Callable[[AtlasProgress], None] | None = None
        self.on_answer: Callable[[EarlyAnswer], None] | None = None

    def fuse_atlases(
        self,
        target: Volume,
        atlases: str | Sequence[AtlasFiles],
        *,
        method: str = "local",
        lam: float | None = None,
        model: str = "",
        refine: bool = False,
        device: str = "auto",
        select: int = 0,
        temperature: float | None = None,
        steps: int = 0,
        minutes: float = 0.0,
        cache: str = "",
        structures: Sequence[Structure] = (),
    ) -> Job:
        """Starts segmenting the target by atlases and returns at once; the image is copied.

        atlases: a folder, or a list; its files are read by the worker, later. structures: what the labels of a list
        mean, as far as its files do not say it. method: "vote", "staple", "local" or "dp". lam: None for the model's
        default. select: keep so many atlases, by similarity; 0 keeps all. For "dp": temperature; steps, 0 for the usual
        number; minutes of learning at most, 0 without a limit. cache: where registrations, and what was learned, are
        kept, "" for the user's. Raises InputError while another job is running; what is wrong with images or atlases
        comes by `on_error`.
        """
        wanted = {
            **_place(atlases, structures), "method": method, "lambda": lam, "model": model, "refine": refine,
            "device": device, "select": select, "temperature": temperature, "steps": steps, "minutes": minutes,
            "cache": cache,
        }  # fmt: skip
        return self._fuse("fuse_atlases", wanted, {"target": target}, target.grid)

    def fuse_maps(
        self,
        maps: Sequence[Volume],
        grid: Grid | None = None,
        *,
        method: str = "vote",
        structures: Sequence[Structure] = (),
    ) -> Job:
        """Starts fusing label maps of one image. method: "vote" or "staple".

        grid: of the result; the first map's by default. structures: what the labels mean.
        Raises InputError without maps or while another job is running.
        """
        if not maps:
            raise InputError("Choose at least one label map.")
        named = {f"map{number}": volume for number, volume in enumerate(maps)}
        place = grid or maps[0].grid
        wanted = {
            "order": list(named), "method": method, "table": _table(structures),
            "grid": {"ijk_to_ras": place.ijk_to_ras.tolist()},
        }  # fmt: skip
        return self._fuse("fuse_maps", wanted, named, place)

    def find_atlases(
        self,
        atlases: str | Sequence[AtlasFiles],
        on_found: Callable[[list[FoundAtlas]], None],
        on_error: Callable[[str], None],
    ) -> Job:
        """Looks through a folder or list of atlases: which can be used, which not and why, a small picture of each."""
        shape = (THUMBNAILS, THUMBNAIL, THUMBNAIL, 3)
        job = self._client.submit("atlases", _place(atlases), outputs={"thumbnails": (shape, np.uint8)})

        def ended(job: Job) -> None:
            if job.state == "done":
                on_found(_found(job))
            elif job.state == "failed":
                on_error(job.error)

        job.observers.append(lambda job: ended(job) if job.ended else None)
        return job

    def finish(self) -> None:
        """Learns no further: `on_done` follows with what is known by now. Does nothing unless the method is "dp"."""
        if self._job is not None:
            self._job.finish()

    def close(self) -> None:
        """Gives the job up; no callback any more. The client stays as it is."""
        self.on_atlas = self.on_answer = None
        super().close()

    def _fuse(self, operation: str, wanted: dict[str, Any], volumes: Mapping[str, Volume], place: Grid) -> Job:
        self._check_idle()
        affine = place.ijk_to_ras.copy()
        outputs = {"labels": (place.shape, np.int32), "disagreement": (place.shape, np.float32)}
        job = self._submit(operation, wanted, volumes, outputs, lambda job: _fused(job, affine))
        job.on_event = lambda event, values: self._told(job, affine, event, values)
        return job

    def _told(self, job: Job, affine: npt.NDArray[np.float64], event: str, values: dict[str, Any]) -> None:
        if event == "atlas" and self.on_atlas is not None:
            self.on_atlas(record(AtlasProgress, values))
        elif event == "answer" and self.on_answer is not None:
            # Copies: the worker goes on writing there.
            labels, disagreement = (job.arrays[name].copy() for name in ("labels", "disagreement"))
            self.on_answer(
                EarlyAnswer(
                    record(Learned, values["learned"]),
                    Volume(labels, affine, "consensus"),
                    Volume(disagreement, affine, "disagreement"),
                    [record(Structure, row) for row in values["structures"]],
                )
            )


def _fused(job: Job, affine: npt.NDArray[np.float64]) -> Fused:
    result = job.result
    return Fused(
        method=result["method"],
        labels=Volume(job.arrays["labels"], affine, "consensus"),
        disagreement=Volume(job.arrays["disagreement"], affine, "disagreement"),
        structures=[
            FusedStructure(record(Structure, structure), record(StructureVolumes, volumes))
            for structure, volumes in zip(result["structures"], result["volumes"], strict=True)
        ],
        raters=[record(Rater, row) for row in result["raters"]],
        disputed_percent=result["disputed_percent"],
        warnings=list(result["warnings"]),
        seconds=result["seconds"],
        learned=record(Learned, result["learned"]) if result.get("learned") else None,
    )


def _place(atlases: str | Sequence[AtlasFiles], structures: Sequence[Structure] = ()) -> dict[str, Any]:
    if isinstance(atlases, str):
        return {"folder": atlases}
    return {"pairs": plain(list(atlases)), "table": _table(structures)}


def _table(structures: Sequence[Structure]) -> dict[str, Any]:
    return {str(s.label): [s.name, list(s.colour)] for s in structures}


def _found(job: Job) -> list[FoundAtlas]:
    pictures = job.arrays["thumbnails"]
    return [
        FoundAtlas(
            row["name"],
            row["image"],
            row["labels"],
            row["problem"],
            None if row["problem"] or number >= len(pictures) else pictures[number].copy(),
        )
        for number, row in enumerate(job.result["atlases"])
    ]
