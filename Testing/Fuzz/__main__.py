"""python -m Testing.Fuzz [COUNT] [SEED] [KIND...]: damages COUNT files and prints every fault (`make fuzz`)."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from Testing.Fuzz.corpus import KINDS, corpus
from Testing.Fuzz.harness import faults


def main() -> int:
    """Number of faults, at most 1."""
    count, seed = (int(text) for text in (*sys.argv[1:3], *("5000", "0")[len(sys.argv[1:3]) :]))
    kinds = sys.argv[3:] or list(KINDS)
    kept = Path(tempfile.mkdtemp(prefix="hyperreg-fuzz-"))
    tally: Counter[str] = Counter()
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        for fault in faults(corpus(Path(folder), kinds), kept, count, seed, tally):
            found += 1
            print(fault, flush=True)
    print(f"{count} damaged files ({', '.join(kinds)}; seed {seed}):", end=" ")
    print(", ".join(f"{number} {what}" for what, number in tally.items()))
    print(f"{found} fault(s)" + (f"; the files are in {kept}" if found else ""))
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main())
