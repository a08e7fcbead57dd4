"""python -m Testing.Kills [COUNT] [SEED] [AT_ONCE]: kills, in turn of the three ways to run HyperReg (`make kills`).

Registrations are stand-ins (`program.py`) unless HYPERREG_KILLS_REAL is set. AT_ONCE: runs beside each other.
fuse: the command, with registrations in two processes. worker: an application whose worker does the same; it, or the
worker, is killed. app: the browser app with images open. After each kill: is a process left, a folder, a semaphore, a
half-written result, a traceback; are the inputs as they were? Prints every fault, and how many there were.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import nibabel

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "Testing" / "Python" / "helpers"))
from cli_pair import write_pair  # noqa: E402
from worker_bench import is_running, semaphores_of  # noqa: E402

from hyperreg.scratch import remove_stale  # noqa: E402

PROGRAM = Path(__file__).with_name("program.py")
MARK = "HYPERREG_KILLS"
SHARED = Path("/dev/shm")  # noqa: S108  where shared memory is on Linux
PREFIXES = (".hyperreg-", "hyperreg-view-", "hyperreg-worker-")
# What is asked to end has so long to do it; what was killed, so long to be gone with all that belongs to it.
END_S, GONE_S = 90.0, 30.0
KILL = signal.SIGKILL
WAYS = ("app", "worker", "fuse")
STARTING = re.compile(
    r'Traceback.*\n  File "<string>", line 1, in <module>\n(?: .*multiprocessing.*\n(?:  .*\n)*)+EOFError'
)
# What is sent, and how often.
ENDINGS = ((KILL,), (KILL,), (signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGINT, signal.SIGINT))


@dataclass
class Bench:
    """Inputs for all runs in `folder`; made once. tally: kills by way and signal."""

    folder: Path
    tally: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        from hyperreg.registration.model import save_untrained

        files = write_pair(self.folder / "inputs")
        atlases = self.folder / "inputs" / "atlases"
        atlases.mkdir()
        for number in range(2):
            (atlases / f"m{number}.nii.gz").write_bytes(files.moving.read_bytes())
            (atlases / f"m{number}_labels.nii.gz").write_bytes(files.moving_labels.read_bytes())
        save_untrained(self.folder / "models", "tiny-untrained")
        self.digest = self.inputs()

    def inputs(self) -> str:
        files = sorted(path for path in (self.folder / "inputs").rglob("*") if path.is_file())
        return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()

    def command(self, way: str, place: Path) -> list[str]:
        target, atlases = str(self.folder / "inputs" / "fixed.nii.gz"), str(self.folder / "inputs" / "atlases")
        if way == "app":
            return [str(PROGRAM), "view", target, str(self.folder / "inputs" / "moving.nii.gz"), "--no-browser"]
        if way == "worker":
            return [str(PROGRAM), "application", target, atlases, str(place / "cache")]
        return [
            str(PROGRAM), "fuse", "--target", target, "--atlases", atlases, "--jobs", "2", "--model",
            "tiny-untrained", "--cache", str(place / "cache"), "--out", str(place / "out" / "labels.nii.gz"),
            "--report", str(place / "out" / "report.json"),
        ]  # fmt: skip

    def start(self, way: str, place: Path, mark: str) -> subprocess.Popen[bytes]:
        for name in ("out", "cache", "tmp"):
            (place / name).mkdir(parents=True)
        environment = {
            **os.environ, "PYTHONPATH": str(REPOSITORY), "HYPERREG_MODELS": str(self.folder / "models"),
            "TMPDIR": str(place / "tmp"), "XDG_DATA_HOME": str(self.folder / "user"), MARK: mark,
        }  # fmt: skip
        with (place / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *self.command(way, place)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment, start_new_session=True,
            )  # fmt: skip

    def kill(self, way: str, ending: tuple[signal.Signals, ...], after: float, chosen: float) -> list[str]:
        """One run, ended after so many seconds; returns what is wrong afterwards.

        chosen: 0 to 1, says which process is killed, where it may be the worker.
        """
        faults: list[str] = []
        what = f"{way} {'+'.join(number.name for number in ending)} after {after:.2f} s"
        mark = uuid.uuid4().hex
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            place = Path(name)
            process = self.start(way, place, mark)
            time.sleep(after)
            pids = marked(mark)
            semaphores = [path for pid in pids for path in quietly_semaphores(pid)]
            folders = [path for pid in pids for path in folders_of(pid)]
            workers = [pid for pid in pids if command_line(pid).endswith(b"program.py\0worker\0")]
            victims = [process.pid, *workers] if way == "worker" and ending[0] == KILL else [process.pid]
            victim = victims[int(chosen * len(victims))]
            self.tally[f"{way} {ending[0].name}{' of the worker' if victim != process.pid else ''}"] += 1
            begun = time.monotonic()
            for number in ending:
                quietly_kill(victim, number)
                time.sleep(0.2 if len(ending) > 1 else 0)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                faults.append(f"{what}: still there after {END_S:.0f} s")
                process.kill()
                process.wait()
            while (marked(mark) or any(s.exists() for s in semaphores)) and time.monotonic() - begun < END_S + GONE_S:
                time.sleep(0.05)
            self.seconds.append(time.monotonic() - begun)
            left = marked(mark)
            for pid in left:
                faults.append(f"{what}: left behind {command_line(pid)[:200]!r}")
                quietly_kill(pid, KILL)
            faults += [f"{what}: left {path}" for path in semaphores if path.exists()]
            # The application is no command of ours, and has no handlers for other signals than Ctrl+C.
            abrupt = ending[0] == KILL or (way == "worker" and ending[0] != signal.SIGINT)
            killed = abrupt and victim == process.pid
            faults += self.look(what, way, place, process.returncode, folders, killed=killed)
        return faults

    def look(
        self, what: str, way: str, place: Path, code: int, folders: list[Path], *, killed: bool
    ) -> list[str]:  # fmt: skip
        """What is left that must not be. code: the exit code. folders: what it had locked. killed: with no chance."""
        faults = []
        if killed:
            # Nobody could tidy up: the next start does.
            for prefix in PREFIXES:
                for root in (place / "out", place / "cache", place / "tmp", SHARED):
                    remove_stale(prefix, root)
        hidden = [path for root in ("out", "cache", "tmp") for path in (place / root).glob("*hyperreg-*")]
        faults += [f"{what}: left {path.name}" for path in hidden]
        faults += [f"{what}: left {path}" for path in folders if path.is_relative_to(SHARED) and path.exists()]
        results = sorted(path.name for path in (place / "out").iterdir() if path not in hidden)
        whole = ["labels.nii.gz", "report.json"]
        complete = whole if way == "fuse" and code == 0 else []
        # Moved into place one after the other: between the moves a kill can come, but each file is whole. It can also
        # come in the moment after all is done.
        harmless = (killed and set(results) <= set(whole)) or (code < 0 and results == whole)
        if results != complete and not harmless:
            faults.append(f"{what}: exit code {code}, but {results}")
        for name in results:
            try:
                if name.endswith(".json"):
                    json.loads((place / "out" / name).read_text(encoding="utf-8"))
                else:
                    nibabel.load(place / "out" / name).get_fdata()
            except Exception as error:  # noqa: BLE001  whatever is wrong with it
                faults.append(f"{what}: half of {name} ({error})")
        log = (place / "log").read_text(encoding="utf-8", errors="replace")
        if killed:
            # A process that Python was just starting finds nobody, and says so before any code of ours can run.
            log = STARTING.sub("", log)
        if "Traceback" in log:
            faults.append(f"{what}: a traceback\n{log[-1500:]}")
        if self.inputs() != self.digest:
            faults.append(f"{what}: inputs changed")
        return faults


def marked(mark: str) -> list[int]:
    """Processes that run and were started, by whomever, for this run."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes() and is_running(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def folders_of(pid: int) -> list[Path]:
    """The private folders that a process has locked."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            path = Path(os.readlink(entry))
        except OSError:
            continue
        if "hyperreg-" in path.name and path.is_dir():
            found.append(path)
    return found


def quietly_semaphores(pid: int) -> list[Path]:
    try:
        return semaphores_of(pid)
    except OSError:
        return []


def quietly_kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def duration(bench: Bench, way: str) -> float:
    """How long a run takes that nobody ends; of the app, until its page can be opened."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        place = Path(name)
        begun = time.monotonic()
        process = bench.start(way, place, "whole")
        while process.poll() is None and not (way == "app" and b"open at" in (place / "log").read_bytes()):
            time.sleep(0.05)
        if process.poll() not in (None, 0):
            raise SystemExit(f"{way} does not work: {(place / 'log').read_text(encoding='utf-8')}")
        process.terminate()
        process.wait()
        return time.monotonic() - begun


def main() -> int:
    """1 if there were faults."""
    count, seed, at_once = (int(text) for text in (*sys.argv[1:4], *("100", "0", "2")[len(sys.argv[1:4]) :]))
    chance = random.Random(seed)  # noqa: S311  no secrets
    found = 0
    with tempfile.TemporaryDirectory(prefix="hyperreg-kills-") as folder, ThreadPoolExecutor(at_once) as pool:
        bench = Bench(Path(folder))
        ways = dict(zip(WAYS, pool.map(lambda way: duration(bench, way), WAYS), strict=True))
        print(", ".join(f"{way} takes {seconds:.0f} s" for way, seconds in ways.items()), flush=True)
        drawn = [
            (WAYS[number % len(WAYS)], chance.choice(ENDINGS), chance.random(), chance.random())
            for number in range(count)
        ]
        results = pool.map(lambda d: bench.kill(d[0], d[1], 1.05 * d[2] * ways[d[0]], d[3]), drawn)
        for number, faults in enumerate(results, 1):
            found += len(faults)
            for fault in faults:
                print(f"kill {number}: {fault}", flush=True)
            if number % 5 == 0:
                print(f"{number} kills, {found} fault(s)", flush=True)
    print(", ".join(f"{name}: {number}" for name, number in sorted(bench.tally.items())))
    waits = sorted(bench.seconds)
    print(f"all gone after {waits[len(waits) // 2]:.1f} s (median), at most {waits[-1]:.1f} s")
    print(f"{count} kills (seed {seed}): {found} fault(s)")
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main())
