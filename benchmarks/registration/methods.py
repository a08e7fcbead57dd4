"""The methods of the benchmark, cheapest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.registration.case import Case
from benchmarks.registration.results import CURVE, oracle_lambda
from benchmarks.registration.runner import Entry

PEERS = "benchmarks.registration.peers"
OURS = "benchmarks.registration.ours"


def one_contrast(case: Case) -> bool:
    return not case.cross


def with_truth(case: Case) -> bool:
    known = (case.fixed_labels and not case.automatic_labels, case.fixed_points, case.truth)
    return any(part for part in known)


def at_oracle(case: Case, output: Path) -> Mapping[str, str | float] | None:
    lam = oracle_lambda(output, case.name)
    return None if lam is None else {"lambda": lam}


METHODS: dict[str, Entry] = {
    "identity": Entry(f"{PEERS}:identity", ("identity",)),
    "affine": Entry(f"{PEERS}:affine", ("affine",)),
    "automatic": Entry(f"{OURS}:automatic", ("quick", "quick auto", "full auto")),
    "full": Entry(f"{OURS}:full", ("full",)),
    "network": Entry(f"{OURS}:network", ("network",)),
    "greedy": Entry(f"{PEERS}:greedy", ("greedy",), "picsl_greedy"),
    "syn": Entry(f"{PEERS}:syn", ("SyN",), "antspyx"),
    "curve": Entry(f"{OURS}:curve", CURVE),
    "full-oracle": Entry(f"{OURS}:full_oracle", ("full oracle",), None, with_truth, at_oracle),
    "elastix": Entry(f"{PEERS}:elastix", ("elastix",), "itk-elastix"),
    "syn-cc": Entry(f"{PEERS}:syn_cc", ("SyN CC",), "antspyx", one_contrast),
}
# The short form stays near ten minutes. SyN with local correlation costs ten times SyN's time: it is asked for by name.
SHORT = ("affine", "automatic", "full", "greedy", "syn")
FULL = tuple(name for name in METHODS if name != "syn-cc")


def with_model(entry: Entry, model: str | None) -> Entry:
    """The same with that model, if it is one of ours and a model is given."""
    if model is None or not entry.address.startswith(OURS):
        return entry

    def options(case: Case, output: Path) -> Mapping[str, str | float] | None:
        found = entry.options(case, output)
        return None if found is None else {**found, "model": model}

    return replace(entry, options=options)
