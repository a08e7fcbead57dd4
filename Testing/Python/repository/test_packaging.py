"""The extension as Slicer packages it: installed through a stand-in for Slicer's CMake package, and run from there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INSTALLED = Path("lib/Slicer-5.12/qt-scripted-modules")
MODULES = ("HyperRegSlicer", "SegmentationModule")
# CMake wants to know its compilers, but nothing is compiled: any program will do.
NO_COMPILER = shutil.which("true") or ""
CATALOGUE_KEYS = {
    "$schema": str, "category": str, "scm_url": str, "scm_revision": str, "scm_type": str, "build_dependencies": list,
    "build_subdirectory": str, "enabled": bool, "tier": int, "dicom_support_rule": str,
}  # fmt: skip

# Runs in a fresh process: only the installed tree and the test host are importable, not the source tree.
RUN_INSTALLED = """
import sys
from pathlib import Path

source, equipment, modules = (Path(argument).resolve() for argument in sys.argv[1:4])
name = sys.argv[4]
sys.path[:] = [str(equipment)] + [path for path in sys.path if Path(path or ".").resolve() != source]
from Testing.Host.run import main

code = main([str(modules / f"{name}.py"), *sys.argv[5:]])
import hyperreg

assert Path(hyperreg.__file__).parent == modules / "hyperreg", hyperreg.__file__
ours = ("hyperreg", "HyperRegSlicer", "HyperRegSlicerLib", "SegmentationModule", "SegmentationModuleLib")
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if name.split(".")[0] in ours and file:
        assert modules in Path(file).resolve().parents, f"{name} comes from {file}"
sys.exit(code)
"""

LIST_MODELS = """
import sys
sys.path[:] = [sys.argv[1]] + [path for path in sys.path if path and path != sys.argv[2]]
import hyperreg
from hyperreg.registration import catalogue as registration
from hyperreg.segmentation import catalogue as segmentation
cards = sorted([*registration.list_networks(), *segmentation.list_models()], key=lambda card: card.name)
print([hyperreg.__file__, *(f"{card.name} {card.folder}" for card in cards)])
for card in cards:
    card.check_weights()
"""


def cmake(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, timeout=300)


def configure(source: Path, build: Path, stand_in: Path) -> subprocess.CompletedProcess[str]:
    languages = [f"-DCMAKE_{language}_COMPILER={NO_COMPILER}" for language in ("C", "CXX")]
    languages += [f"-DCMAKE_{language}_COMPILER_FORCED=ON" for language in ("C", "CXX")]
    return cmake("-S", source, "-B", build, f"-DSlicer_DIR={stand_in}", *languages)


def tracked(repository: Path, *places: str) -> list[str]:
    """Files of the source tree that git knows or would know, below `places`."""
    command = ["git", "-C", str(repository), "ls-files", "--cached", "--others", "--exclude-standard", "--", *places]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    return [name for name in listed if name and (repository / name).is_file()]


LIST_MODEL_FOLDERS = """
from hyperreg.registration.catalogue import list_networks
print(*(card.folder for card in list_networks()))
"""


@pytest.fixture(scope="module")
def stand_in(repository: Path) -> Path:
    return repository / "Testing" / "Packaging"


@pytest.fixture(scope="module")
def build(repository: Path, stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    for step in (configure(repository, folder, stand_in), cmake("--build", folder)):
        assert step.returncode == 0, step.stdout + step.stderr
    return folder


@pytest.fixture(scope="module")
def installed(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed tree, in an otherwise empty folder."""
    folder = tmp_path_factory.mktemp("installed")
    step = cmake("--install", build, "--prefix", folder)
    assert step.returncode == 0, step.stdout + step.stderr
    return folder


def test_every_file_of_the_extension_is_installed_and_nothing_else(repository: Path, installed: Path) -> None:
    expected = {
        name
        for name in tracked(repository, "hyperreg", "Resources/Models", "Resources/SampleData")
        if not name.endswith("py.typed")
    }
    for module in MODULES:
        files = [name for name in tracked(repository, module) if not name.endswith("CMakeLists.txt")]
        expected |= {name.removeprefix(f"{module}/") for name in files}
        assert {f"{module}.py", f"Resources/UI/{module}.ui", f"Resources/Icons/{module}.png"} <= expected
    root = installed / INSTALLED
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert found == expected
    assert {path.relative_to(installed).parts[0] for path in installed.rglob("*") if path.is_file()} == {"lib"}


def test_installed_files_are_those_of_the_source_tree(repository: Path, installed: Path) -> None:
    for module in MODULES:
        for name in (f"{module}.py", f"{module}Lib/Widget.py", f"Resources/UI/{module}.ui"):
            assert (installed / INSTALLED / name).read_bytes() == (repository / module / name).read_bytes()
    assert (installed / INSTALLED / "hyperreg/errors.py").read_bytes() == (
        repository / "hyperreg/errors.py"
    ).read_bytes()


def test_the_installed_engine_finds_the_installed_models(repository: Path, installed: Path, tmp_path: Path) -> None:
    modules = (installed / INSTALLED).resolve()
    variables = {name: value for name, value in os.environ.items() if name not in ("HYPERREG_MODELS", "PYTHONPATH")}
    variables["XDG_DATA_HOME"] = str(tmp_path)  # no models that somebody has added for themselves
    process = subprocess.run(
        [sys.executable, "-c", LIST_MODELS, str(modules), str(repository)],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env=variables,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    names = sorted(path.parent.name for path in (repository / "Resources" / "Models").glob("*/card.json"))
    models = [f"{name} {modules / 'Resources' / 'Models' / name}" for name in names]
    assert process.stdout.strip() == str([str(modules / "hyperreg" / "__init__.py"), *models])


@pytest.mark.parametrize("module", MODULES)
def test_the_host_runs_the_modules_of_the_installed_tree(
    repository: Path, installed: Path, tiny_models: Path, tmp_path: Path, module: str
) -> None:
    shutil.copytree(repository / "Testing" / "Host", tmp_path / "Testing" / "Host")
    script = tmp_path / "run_installed.py"
    script.write_text(RUN_INSTALLED, encoding="utf-8")
    picture = tmp_path / "module.png"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        [sys.executable, str(script), str(repository), str(tmp_path), str(installed / INSTALLED),
         module, "--self-test", "--screenshot", str(picture)],
        capture_output=True, text=True, timeout=500, cwd=tmp_path,
        env={**variables, "HYPERREG_MODELS": str(tiny_models)},
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]
    assert picture.stat().st_size > 10_000


def test_the_description_is_complete(build: Path, repository: Path) -> None:
    lines = (build / "HyperReg.description.txt").read_text(encoding="utf-8").splitlines()
    description = dict(line.split(" ", 1) for line in lines)
    assert description["depends"] == "PyTorch"
    assert description["homepage"].startswith("https://")
    assert description["tests"].split(";") == [f"{module}.py" for module in MODULES]
    assert len(description["description"]) > 80
    pictures = [description["iconurl"], *description["screenshoturls"].split()]
    assert len(pictures) >= 2
    for address in pictures:
        assert re.fullmatch(r"https://\S+\.(png|jpg|jpeg)", address)
        # The addresses are those of this repository's own files.
        assert (repository / address.split("/main/", 1)[1]).is_file(), address


@pytest.mark.parametrize(
    ("find", "replace", "said"),
    [
        ("project(HyperReg)", "project(SlicerHyperReg)", "may not start with 'Slicer'"),
        ('set(EXTENSION_DEPENDS "PyTorch")', "", "EXTENSION_DEPENDS is not set"),
        ("middle.png https://", "middle.png\n  https://", "one quoted line"),
        ('SCRIPTS "${engine_scripts}"', 'SCRIPTS "hyperreg/gone.py"', "gone.py"),
    ],
)
def test_the_stand_in_refuses_what_slicer_refuses(
    repository: Path, stand_in: Path, tmp_path: Path, find: str, replace: str, said: str
) -> None:
    text = (repository / "CMakeLists.txt").read_text(encoding="utf-8")
    assert find in text
    source = tmp_path / "source"
    for module in MODULES:
        shutil.copytree(repository / module, source / module)
    (source / "hyperreg").mkdir()
    shutil.copy(repository / "hyperreg" / "errors.py", source / "hyperreg")
    (source / "CMakeLists.txt").write_text(text.replace(find, replace), encoding="utf-8")
    step = configure(source, tmp_path / "build", stand_in)
    assert step.returncode != 0
    assert said in step.stderr


@pytest.mark.parametrize("forgetful", MODULES)
def test_a_forgotten_module_file_is_noticed(repository: Path, stand_in: Path, tmp_path: Path, forgetful: str) -> None:
    for module in MODULES:
        shutil.copytree(repository / module, tmp_path / module)
    (tmp_path / "hyperreg").mkdir()
    shutil.copy(repository / "hyperreg" / "errors.py", tmp_path / "hyperreg")
    shutil.copy(repository / "CMakeLists.txt", tmp_path)
    (tmp_path / forgetful / f"{forgetful}Lib" / "Widget.py").unlink()
    step = configure(tmp_path, tmp_path / "build", stand_in)
    assert step.returncode != 0
    assert "Widget.py" in step.stderr


def test_the_catalogue_entry_follows_the_schema(repository: Path) -> None:
    entry = json.loads((repository / "HyperReg.json").read_text(encoding="utf-8"))
    assert {"$schema", "category", "scm_url"} <= set(entry)
    for key, value in entry.items():
        assert key in CATALOGUE_KEYS
        assert isinstance(value, CATALOGUE_KEYS[key])
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert entry["category"] == "Registration"
    assert entry["build_dependencies"] == ["PyTorch"]
    assert 1 <= entry["tier"] <= 5
    # The index wants a repository whose name starts with "Slicer", and a file named like the CMake project.
    assert re.fullmatch(r"https://github\.com/[\w-]+/SlicerHyperReg\.git", entry["scm_url"])
    assert "project(HyperReg)" in (repository / "CMakeLists.txt").read_text(encoding="utf-8")


def test_the_icon_has_the_size_that_the_extensions_manager_shows(repository: Path) -> None:
    data = (repository / "Resources" / "Icons" / "HyperReg.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (128, 128)


def test_the_wheel_carries_models_and_every_file_of_the_package(
    repository: Path, tiny_models: Path, tmp_path: Path
) -> None:
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    package = tracked(repository, "hyperreg")
    for name in [*package, "pyproject.toml", "hatch_build.py", "README.md", "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, source / name)
    shutil.copytree(tiny_models, source / "Resources" / "Models")
    shutil.copytree(repository / "Resources" / "SampleData", source / "Resources" / "SampleData")
    sample = {f"hyperreg/sample_data/{path.name}" for path in (source / "Resources" / "SampleData").iterdir()}
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    process = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    (wheel,) = tmp_path.glob("hyperreg-*.whl")
    shutil.unpack_archive(wheel, unpacked, "zip")
    found = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    model = {f"hyperreg/models/tiny-untrained/{name}" for name in ("card.json", "weights.safetensors")}
    assert {name for name in found if name.startswith("hyperreg/")} == set(package) | model | sample
    variables = {name: value for name, value in os.environ.items() if name != "HYPERREG_MODELS"}
    process = subprocess.run(
        [sys.executable, "-c", LIST_MODEL_FOLDERS], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**variables, "PYTHONPATH": str(unpacked)},
    )  # fmt: skip
    assert process.stdout.strip() == str(unpacked / "hyperreg" / "models" / "tiny-untrained")
