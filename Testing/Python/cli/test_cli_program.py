"""The program as a whole: quick and torch-free help, exit codes, errors without tracebacks, `doctor`, `models`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_pair import run

import hyperreg
from hyperreg import catalogue, doctor
from hyperreg.cli.console import EXIT_CODES, ExitCode, exit_code, progress_bar
from hyperreg.errors import Cancelled, FileError, HyperRegError, InputError, OutOfMemory, WeightsError, WorkerError
from hyperreg.imaging.dicom import pixels
from hyperreg.registration import run as run_module
from hyperreg.registration.model import save_untrained
from hyperreg.reporting import write_report

HEAVY = ("torch", "pydicom", "highdicom", "monai", "SimpleITK", "nibabel", "matplotlib", "trame", "slicer", "vtk")
COMMANDS = ("register", "sweep", "segment", "models", "dicom", "doctor", "view", "train")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from hyperreg.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0
    assert process.stderr.strip() == "[]"
    for command in COMMANDS:
        assert command in process.stdout


@pytest.mark.parametrize("command", [*COMMANDS, "train registration"])
def test_every_command_has_help_one_can_work_from(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split(), "--help") == 0
    text = capsys.readouterr().out
    assert len(text) > 300
    if command in ("register", "sweep", "segment", "view"):
        assert "Example" in text
        assert f"hyperreg {command}" in text


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_terminal_without_greek_letters_is_told_all_the_same(encoding: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "hyperreg.cli", "sweep", "--help"],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}, capture_output=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert b"FIXED" in process.stdout


def test_a_report_names_files_whose_names_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"scan-\xff.nii.gz")
    write_report({"fixed": {"file": name}, "λ": 0.2}, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == {"fixed": {"file": name}, "λ": 0.2}


@pytest.mark.parametrize("arguments", [["dicom"], ["sweep", "a.nii"], ["search"], ["train", "segmentation"]])
def test_a_name_that_the_system_refuses_is_no_fault_of_the_program(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYPERREG_DEBUG", "")
    assert run(*arguments, "x" * 300) in (ExitCode.INPUT, ExitCode.FILE)
    assert "fault of HyperReg" not in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"hyperreg {hyperreg.__version__}"


def test_wrong_usage_ends_with_the_code_of_wrong_input() -> None:
    assert run("register", "only-one-image.nii") == ExitCode.INPUT
    assert run("register", "a", "b", "--no-such-option") == ExitCode.INPUT
    assert run("no-such-command") == ExitCode.INPUT


def test_every_kind_of_error_has_its_own_documented_code() -> None:
    kinds = [kind for kind in HyperRegError.__subclasses__() if kind.__module__ == HyperRegError.__module__]
    codes = {kind: exit_code(kind("text")) for kind in kinds}
    assert codes == {
        InputError: 2, FileError: 3, WeightsError: 4, OutOfMemory: 5, WorkerError: 6, Cancelled: 130,
    }  # fmt: skip
    assert exit_code(PermissionError(13, "Permission denied", "/data/a.nii")) == ExitCode.FILE
    assert exit_code(ConnectionResetError(104, "Connection reset by peer")) == ExitCode.OTHER
    assert exit_code(MemoryError()) == ExitCode.MEMORY
    assert exit_code(RuntimeError("DefaultCPUAllocator: can't allocate memory")) == ExitCode.MEMORY
    for code in ExitCode:
        assert f"{int(code)} " in EXIT_CODES


def test_an_unexpected_error_is_one_line_unless_debugging(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_anything: object) -> None:
        raise ZeroDivisionError("the [bold]inner[/] workings")

    monkeypatch.setattr(run_module, "load_pair", broken)
    monkeypatch.setenv("HYPERREG_DEBUG", "")
    assert run("register", "a.nii", "b.nii", "-q", "--model", tiny_model) == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError: the [bold]inner[/] workings" in error
    assert "Traceback" not in error
    assert error.count("\n") == 1
    assert run("register", "a.nii", "b.nii", "-q", "--model", tiny_model, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_package_is_named(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "hyperreg.registration.run", None)
    assert run("register", "a.nii", "b.nii", "-q", "--model", tiny_model) == 7
    assert "hyperreg.registration.run" in capsys.readouterr().err


def test_progress_without_a_terminal_is_a_line_per_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        for fraction in (0.1, 0.15, 0.2):
            progress(fraction, "Reading [1/2]")
        progress(0.5, "Writing")
    assert capsys.readouterr().err.splitlines() == [" 10% Reading [1/2]", " 50% Writing"]
    with progress_bar(quiet=True) as progress:
        progress(0.5, "Writing")
    assert capsys.readouterr().err == ""


def test_models_are_listed(tiny_model: str, tiny_models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0
    text = capsys.readouterr().out
    assert f"{tiny_model}: " in text or f"{tiny_model} (default): " in text
    assert str(tiny_models / tiny_model) in text
    assert "lambda (starts at 0.3)" in text


def only_this_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The catalogue looks nowhere else."""
    for module in (catalogue, doctor):
        monkeypatch.setattr(module, "model_folders", lambda: [folder])


def test_doctor_is_content_with_a_whole_installation(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_this_folder(monkeypatch, tiny_models)
    assert run("doctor") == 0
    text = capsys.readouterr().out
    sha = json.loads((tiny_models / "tiny-untrained" / "card.json").read_text(encoding="utf-8"))["sha256"]
    assert f"weights intact (SHA256 {sha})" in text
    for subject in ("system", "Python", "torch", "SimpleITK", "memory", "GPU", "disk"):
        assert f"] {subject}" in text
    assert text.rstrip().endswith("Everything that is needed works.")
    assert "\x1b" not in text


def test_doctor_says_what_works_without_any_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_this_folder(monkeypatch, tmp_path)
    assert run("doctor") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[note ] models: none found")]
    assert len(notes) == 1 and "registration works without" in notes[0]


def test_doctor_names_the_dicom_compressions_that_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any decoder of pydicom, what GDCM has no codec for is left; with all of them, nothing."""
    monkeypatch.setattr(pixels, "_pydicom_decodes", lambda _syntax: False)
    (first, second) = doctor._compressions()
    assert (first.state, second.state) == (doctor.State.NOTE, doctor.State.NOTE)
    assert "High-Throughput JPEG 2000" in first.text and "pip install pylibjpeg pylibjpeg-openjpeg" in first.text
    assert "RLE Lossless" in second.text and "JPEG Baseline" not in first.text + second.text
    monkeypatch.setattr(pixels, "_pydicom_decodes", lambda _syntax: True)
    assert [check.state for check in doctor._compressions()] == [doctor.State.OK]


@pytest.mark.parametrize("harm", ["weights", "card"])
def test_doctor_finds_damaged_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    only_this_folder(monkeypatch, tmp_path)
    save_untrained(tmp_path, "good")
    card = save_untrained(tmp_path, "bad")
    path = card.weights if harm == "weights" else card.folder / "card.json"
    path.write_bytes(path.read_bytes()[:-100])
    assert run("doctor") == ExitCode.INSTALLATION
    lines = capsys.readouterr().out.splitlines()
    faults = [line for line in lines if line.startswith("[FAULT]")]
    assert len(faults) == 1
    assert "model bad" in faults[0]
    assert lines[-1] == "1 fault(s)."


def test_doctor_names_the_gpu_and_its_memory(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_this_folder(monkeypatch, tiny_models)
    gpu = {"name": "cuda", "title": "Some GPU", "free_bytes": 6 << 30, "total_bytes": 8 << 30}
    cpu = {"name": "cpu", "title": "CPU", "free_bytes": None, "total_bytes": None}
    monkeypatch.setattr(doctor, "list_devices", lambda: [gpu, cpu])
    monkeypatch.setattr(doctor, "main_memory", lambda: (1 << 30, 16 << 30))
    checks = {check.subject: check for check in doctor.diagnose().checks}
    assert checks["GPU"].text.startswith("Some GPU, 6.0 of 8.0 GB free")
    assert checks["GPU"].state is doctor.State.OK
    assert checks["memory"].text == "1.0 of 16.0 GB free; registration needs up to 4 GB"
    assert checks["memory"].state is doctor.State.NOTE


def test_doctor_survives_a_broken_package(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_this_folder(monkeypatch, tiny_models)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    assert run("doctor") == ExitCode.INSTALLATION
    assert "[FAULT] nibabel:" in capsys.readouterr().out
