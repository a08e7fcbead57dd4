"""Experiments I to IV as small jobs; each leaves one JSON file, so that an interrupted run goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fusion import networks, registered
from benchmarks.fusion.disturbed import disturbed_slices
from benchmarks.fusion.methods import METHODS, make_case
from benchmarks.fusion.speed import TASKS, measure
from benchmarks.fusion.structures import Structures, structures
from benchmarks.registration.method import cpu_seconds
from benchmarks.registration.store import load_json, save_json
from hyperreg.fusion.data_parameters import train
from hyperreg.fusion.qualities import DataParameterSettings
from hyperreg.fusion.samples import LabelledTarget
from hyperreg.fusion.stack import stack_labels
from hyperreg.imaging.volume import Volume

Say = Callable[[str], None]
Pairs = Callable[[str], list[tuple[str, str]]]

SETS: dict[str, Pairs] = {
    "mixed": registered.mixed,
    "unrefined": registered.unrefined,
    "uniform": registered.uniform,
    "single": registered.single,
}
# The networks are trained on these, and measured on all other subjects.
NETWORK_TARGETS = registered.TARGETS
# What is changed of HyperReg's settings, by the name of the variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "out of line": {},
    "in line": {"mode": "in_line"},
    "without risk": {"risk": False},
    "without fixed weighting": {"fixed_weighting": False},
    "without both": {"risk": False, "fixed_weighting": False},
}
PLAIN = "out of line"
# The same with HyperReg's own size and number of steps.
DEFAULTS = "out of line, defaults"
# Coarser and shorter than HyperReg's defaults, so that all variants fit into an hour on a CPU.
VOLUMES = {"most_voxels": 20_000, "warm_up": 80}
# Sets and structures that data parameters are learned for, as the fields of `Case` hold them.
LEARNED = {("mixed", "hippocampus"), ("mixed", "subcortical"), ("mixed", "all"), ("uniform", "hippocampus")}
LEARNED_WITH_DEFAULTS = LEARNED - {("uniform", "hippocampus")}
# Slices need more steps, because each is seen in half of them at most.
SLICE_STEPS = 200


@dataclass(frozen=True)
class Job:
    """name: of its file. run: gives what the file holds. needs: (set, target) of the registrations that it reads."""

    name: str
    run: Callable[[], dict[str, Any]]
    needs: tuple[tuple[str, str], ...] = ()

    def path(self, output: Path) -> Path:
        return result_path(output, self.name)


def result_path(output: Path, job: str) -> Path:
    """Where the result of a job lies."""
    return output / "results" / f"{job.replace(' ', '_')}.json"


def open_jobs(jobs: Iterable[Job], output: Path, again: bool) -> list[Job]:
    """Those without a result; again: also those that ended in an error."""
    return [job for job in jobs if not job.path(output).exists() or (again and "error" in load_json(job.path(output)))]


def needed(jobs: Iterable[Job]) -> dict[str, list[tuple[str, str]]]:
    """What `register_all` has to make for these jobs."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    for set_, target in dict.fromkeys(need for job in jobs for need in job.needs):
        pairs.setdefault(target, []).extend(SETS[set_](target))
    return pairs


def run_jobs(jobs: Iterable[Job], output: Path, say: Say) -> None:
    """An error becomes a result that says so, and the rest goes on."""
    for job in jobs:
        path = job.path(output)
        cpu, wall = cpu_seconds(), time.perf_counter()
        try:
            result = job.run()
        except Exception as error:  # noqa: BLE001 (whatever a method does must not end the run)
            result = {"error": f"{type(error).__name__}: {error}"}
        result |= {"job": job.name, "job_cpu_s": cpu_seconds() - cpu, "job_wall_s": time.perf_counter() - wall}
        save_json(path, result)
        say(f"{job.name}: {result.get('error') or _line(result)} [{result['job_wall_s']:.0f} s]")


def _line(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {result[key]:.3f}" for key in ("dice", "spearman") if key in result)


def all_jobs(output: Path, targets: Sequence[str], steps: int) -> Iterator[Job]:
    """The most telling first."""
    store = output / "registered"
    for name in ("hippocampus", "subcortical"):
        yield _learning("mixed", name, PLAIN, targets, store, steps)
        yield _learning("mixed", name, DEFAULTS, targets, store, steps)
        yield from _fusions("mixed", name, targets, output)
    for variant in ("in line", "without both", "without risk", "without fixed weighting"):
        yield _learning("mixed", "hippocampus", variant, targets, store, steps)
    yield _learning("single", "hippocampus", PLAIN, targets, store, steps)
    speed = (("uniform", registered.TARGETS[0]), ("mixed", registered.TARGETS[0]))
    yield from (Job(speed_name(task), partial(measure, output, task), speed) for task in TASKS)
    yield from _fusions("mixed", "all", targets, output)
    yield from _fusions("mixed", "hippocampus", targets, output, slow=True)
    yield from (Job(slices_name(variant), partial(_slices, variant)) for variant in (PLAIN, "in line"))
    yield _learning("uniform", "hippocampus", PLAIN, targets, store, steps)
    yield from _fusions("uniform", "hippocampus", targets, output)
    yield from _alone("mixed", "hippocampus", targets, store, steps)
    yield from _networks("unrefined", "hippocampus", NETWORK_TARGETS, output)
    yield from _fusions("uniform", "subcortical", targets, output)
    yield from _fusions("mixed", "subcortical", targets, output, slow=True)
    yield from _fusions("uniform", "hippocampus", targets, output, slow=True)


def learning_name(set_: str, name: str, variant: str) -> str:
    return f"dp--{set_}--{name}--{variant}"


def alone_name(set_: str, name: str, target: str) -> str:
    return f"alone--{set_}--{name}--{target}"


def slices_name(variant: str) -> str:
    return f"I--{variant}"


def speed_name(task: str) -> str:
    return f"speed--{task}"


def fusion_name(set_: str, name: str, target: str, method: str) -> str:
    return f"fuse--{set_}--{name}--{target}--{method}"


def network_name(set_: str, name: str, kind: str, seed: int) -> str:
    return f"network--{set_}--{name}--{kind}--{seed}"


def _learning(set_: str, name: str, variant: str, targets: Sequence[str], store: Path, steps: int) -> Job:
    needs = tuple((set_, target) for target in targets)
    return Job(learning_name(set_, name, variant), partial(_learn, set_, name, variant, targets, store, steps), needs)


def _alone(set_: str, name: str, targets: Sequence[str], store: Path, steps: int) -> Iterator[Job]:
    """One target at a time, as a user with one case has it."""
    for target in targets:
        job = _learning(set_, name, PLAIN, (target,), store, steps)
        yield Job(alone_name(set_, name, target), job.run, job.needs)


def _networks(set_: str, name: str, targets: Sequence[str], output: Path) -> Iterator[Job]:
    needs = tuple((set_, target) for target in targets)
    for seed in networks.SEEDS:
        for kind in networks.KINDS:
            run = partial(_network, set_, name, kind, seed, targets, output)
            yield Job(network_name(set_, name, kind, seed), run, needs)


def _network(set_: str, name: str, kind: str, seed: int, targets: Sequence[str], output: Path) -> dict[str, Any]:
    wanted = structures(name)
    read, cases = [], []
    for target_name in targets:
        target, atlases = _read(output / "registered", set_, target_name)
        read.append(target)
        cases.append(make_case(target, atlases, wanted, longer=_values(output, set_, name, target_name, DEFAULTS)))
    facts = {"set": set_, "structures": name, "method": kind, "seed": seed}
    return facts | networks.run(kind, seed, cases, read, wanted)


def labelled(
    set_: str, wanted: Structures, targets: Sequence[str], store: Path
) -> Iterator[tuple[LabelledTarget, Any]]:
    """Targets as the training takes them, and each atlas' (atlas, quality, true Dice)."""
    for name in targets:
        target = registered.read_target(name)
        atlases = registered.load(store, target, SETS[set_](name))
        truth = wanted.of(target.truth.array)
        maps = [
            Volume(wanted.of(atlas.labels.array), target.image.ijk_to_ras, f"{atlas.atlas} {atlas.quality}")
            for atlas in atlases
        ]
        facts = [
            (atlas.atlas, atlas.quality, wanted.dice(truth, one.array))
            for atlas, one in zip(atlases, maps, strict=True)
        ]
        yield LabelledTarget(name, target.image, stack_labels(maps)), facts


def _learn(set_: str, name: str, variant: str, targets: Sequence[str], store: Path, steps: int) -> dict[str, Any]:
    """Learn data parameters and compare them with the true Dice."""
    found = list(labelled(set_, structures(name), targets, store))
    settings = DataParameterSettings()
    if variant != DEFAULTS:
        settings = DataParameterSettings(steps=steps, **VOLUMES, **VARIANTS[variant])
    quality = [fact[2] for _target, facts in found for fact in facts]
    names = [(target.name, *fact[:2]) for target, facts in found for fact in facts]
    return _trained([target for target, _facts in found], settings, quality, names) | {
        "set": set_,
        "structures": name,
        "variant": variant,
    }


def _slices(variant: str) -> dict[str, Any]:
    targets, quality = disturbed_slices()
    settings = DataParameterSettings(steps=SLICE_STEPS, **VARIANTS[variant])
    names = [(target.name, "manual", "disturbed") for target in targets]
    return (
        _trained(targets, settings, quality, names)
        | {"set": "slices", "structures": "hippocampus"}
        | {"variant": variant}
    )


def _trained(
    targets: Sequence[LabelledTarget], settings: DataParameterSettings, quality: Sequence[float], names: Sequence[Any]
) -> dict[str, Any]:
    learned = train(targets, settings, device="cpu")
    values = np.concatenate(learned.values)
    samples = [
        {"target": target, "atlas": atlas, "quality": how, "dice": float(dice), "value": float(value)}
        for (target, atlas, how), dice, value in zip(names, quality, values, strict=True)
    ]
    return {
        "samples": samples,
        "spearman": spearman(values, quality),
        "history_steps": list(learned.history_steps),
        "spearman_history": [spearman(row, quality) for row in learned.history],
        "losses": list(learned.losses),
        "steps": learned.steps,
        "spacing_mm": learned.spacing_mm,
        "shape": list(learned.shape),
    }


def spearman(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> float:
    """Rank correlation; ties share their mean rank; NaN where one side does not vary."""
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (one, other)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]


def _fusions(set_: str, name: str, targets: Sequence[str], output: Path, *, slow: bool = False) -> Iterator[Job]:
    for target in targets:
        for method, about in METHODS.items():
            known = {"values": LEARNED, "longer": LEARNED_WITH_DEFAULTS}.get(about.learned, {(set_, name)})
            if about.slow == slow and (name != "all" or about.all_labels) and (set_, name) in known:
                run = partial(_fuse, set_, name, target, method, output)
                yield Job(fusion_name(set_, name, target, method), run, ((set_, target),))


def _fuse(set_: str, name: str, target_name: str, method: str, output: Path) -> dict[str, Any]:
    wanted = structures(name)
    target, atlases = _read(output / "registered", set_, target_name)
    values, longer = (_values(output, set_, name, target_name, variant) for variant in (PLAIN, DEFAULTS))
    case = make_case(target, atlases, wanted, values, longer)
    facts = {"set": set_, "structures": name, "target": target_name, "method": method}
    cpu, wall = cpu_seconds(), time.perf_counter()
    try:
        found = METHODS[method].run(case)
    except ModuleNotFoundError:
        return facts | {"error": f"not installed: {METHODS[method].package}"}
    except LookupError as error:
        return facts | {"error": str(error)}
    seconds = {"cpu_s": cpu_seconds() - cpu, "wall_s": time.perf_counter() - wall}
    return facts | {"dice": wanted.dice(case.truth, found)} | seconds


@lru_cache(maxsize=1)
def _read(store: Path, set_: str, name: str) -> tuple[registered.Target, list[registered.Registered]]:
    target = registered.read_target(name)
    return target, registered.load(store, target, SETS[set_](name))


def _values(output: Path, set_: str, name: str, target: str, variant: str) -> np.ndarray | None:
    """The data parameters of a target; for all labels those of the subcortical ones, for the unrefined set the mixed
    set's.
    """
    learned_set = "mixed" if set_ == "unrefined" else set_
    learned = learning_name(learned_set, "subcortical" if name == "all" else name, variant)
    path = result_path(output, learned)
    if not path.exists() or "samples" not in (result := load_json(path)):
        return None
    pairs = SETS[set_](target)
    return np.array(
        [
            sample["value"]
            for sample in result["samples"]
            if sample["target"] == target and (sample["atlas"], sample["quality"]) in pairs
        ]
    )
