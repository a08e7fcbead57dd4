"""Rules of the house that no other tool checks: layers, file sizes, one version, no traces of a machine."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hyperreg

LARGEST_REPOSITORY_MB = 100

# What each part of the engine may import from the engine; the way is one-way (docs/developer-guide.md).
FOUNDATION = {"", "catalogue", "errors", "imaging", "machine", "reporting", "scratch"}
ALLOWED = {
    "": {""},
    "errors": set(),
    "machine": {"errors"},
    "catalogue": {"", "errors"},
    "scratch": set(),
    "schema": set(),
    "reporting": {"", "imaging"},
    "imaging": FOUNDATION,
    "execution": FOUNDATION,
    "overnight": FOUNDATION,
    "phantom": FOUNDATION | {"phantom_anatomy"},
    "phantom_anatomy": FOUNDATION,
    "sample": {"", "errors"},
    "sheet": FOUNDATION,
    "nets": FOUNDATION,
    "registration": FOUNDATION | {"nets", "sheet"},
    "segmentation": FOUNDATION | {"nets", "sheet"},
    "fusion": FOUNDATION | {"execution", "nets", "registration", "segmentation"},
    "cohort": FOUNDATION | {"execution", "fusion", "registration", "segmentation", "sheet"},
    "worker": FOUNDATION | {"fusion", "nets", "registration", "segmentation"},
    "training": FOUNDATION | {"fusion", "nets", "registration", "segmentation"},
    "automl": FOUNDATION | {"execution", "nets", "segmentation", "training"},
    "doctor": FOUNDATION | {"registration", "segmentation", "worker"},
    "mrml": FOUNDATION | {"fusion", "registration", "segmentation", "worker"},
    "view": FOUNDATION | {"fusion", "mrml", "overnight", "registration", "sample", "segmentation", "worker"},
    "cli": FOUNDATION
    | {"automl", "cohort", "doctor", "execution", "fusion", "overnight", "phantom", "registration", "segmentation"}
    | {"training", "view", "worker"},
}
# Packages that only these parts of the engine may import.
FOREIGN = {"slicer": ("mrml", "view"), "vtk": ("mrml", "view"), "vtkmodules": ("mrml", "view"), "trame": ("view",),
           "trame_slicer": ("view",), "trame_vuetify": ("view",), "qt": (), "ctk": (), "PySide6": (), "typer": ("cli",),
           "rich": ("cli",)}  # fmt: skip
# Importing these must stay possible, and quick, where only numpy is installed: Slicer's own process does it.
LIGHT = (
    "hyperreg",
    "hyperreg.mrml",
    "hyperreg.worker.client",
    "hyperreg.worker.fusion",
    "hyperreg.worker.live.registration",
    "hyperreg.worker.segmentation",
    "hyperreg.worker.models",
    "hyperreg.registration.catalogue",
    "hyperreg.segmentation.catalogue",
    "hyperreg.segmentation.licences",
    "hyperreg.doctor",
)


def tracked(repository: Path, *patterns: str) -> list[Path]:
    command = ["git", "-C", str(repository), "ls-files", "-z", "--", *patterns]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [repository / name for name in listed.split("\0") if name and (repository / name).is_file()]


def imported(tree: ast.AST) -> set[str]:
    """Full names of all modules that a file imports, also inside functions, but not for type checkers only."""
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the engine imports by full names"
            names.add(str(node.module))
            if node.module == "hyperreg":
                names |= {f"hyperreg.{alias.name}" for alias in node.names}
    return names


def part_of(module: str) -> str:
    """The part of the engine that a module belongs to: "" for hyperreg itself."""
    words = module.split(".")
    return words[1] if len(words) > 1 and words[1] != "__version__" else ""


def engine_files(repository: Path) -> list[Path]:
    return [path for path in tracked(repository, "hyperreg/*.py") if path.name != "__main__.py"]


def test_the_engine_s_parts_import_one_way(repository: Path) -> None:
    wrong = []
    for path in engine_files(repository):
        place = path.relative_to(repository).with_suffix("").parts
        part = part_of(".".join(part for part in place if part != "__init__"))
        assert part in ALLOWED, f"{path}: a new part of the engine; say above what it may import"
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            top = name.split(".")[0]
            if top == "hyperreg" and part_of(name) not in ALLOWED[part] | {part}:
                wrong.append(f"{path.relative_to(repository)} imports {name}")
            if top in FOREIGN and part not in FOREIGN[top]:
                wrong.append(f"{path.relative_to(repository)} imports {name}")
    assert wrong == []


def test_the_scene_logic_s_parts_import_one_way(repository: Path) -> None:
    """What a reload of one module takes anew may not be held by what it leaves."""
    wrong = []
    for path in tracked(repository, "hyperreg/mrml/*.py"):
        words = path.relative_to(repository / "hyperreg" / "mrml").parts
        part = words[0] if len(words) > 1 else ""
        allowed = {part, *({"segmentation"} if part == "fusion" else ())}
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            found = name.split(".")[2:3] if name.startswith("hyperreg.mrml.") else []
            if found and found[0] in ("registration", "segmentation", "fusion") and found[0] not in allowed:
                wrong.append(f"{path.relative_to(repository)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    heavy = ("torch", "monai", "SimpleITK", "nibabel", "matplotlib", "scipy", "trame", "slicer", "vtk")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "[]"


def test_the_version_stands_in_one_place(repository: Path) -> None:
    project = (repository / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in project
    assert 'path = "hyperreg/__init__.py"' in project
    assert re.fullmatch(r"\d+\.\d+\.\d+", hyperreg.__version__)
    others = [
        str(path.relative_to(repository))
        for path in tracked(repository, "*.py", "*.cmake", "CMakeLists.txt")
        if path != repository / "hyperreg" / "__init__.py"
        and re.search(r"__version__ *=|VERSION +" + re.escape(hyperreg.__version__), path.read_text(encoding="utf-8"))
    ]
    assert others == []


def test_pins_and_dependencies_agree(repository: Path) -> None:
    def name_of(line: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[=<>!~;\[ ]", line)[0]).lower()

    pins = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in pins if line and not line.startswith("#")]
    for line in pins:
        assert re.fullmatch(r'[\w.-]+==[\w.]+(; python_version (>=|<) "3\.\d+")?', line), line
    assert [line for line in pins if name_of(line) == "torch"] == ["torch==2.13.0"]
    pinned = {name_of(line) for line in pins}
    project = (repository / "pyproject.toml").read_text(encoding="utf-8").split("[project.scripts]")[0]
    wanted = re.findall(r'^    "([A-Za-z][\w-]*)(?:>=[\d.]+)?",$', project, flags=re.MULTILINE)
    assert len(wanted) > 20
    assert {name_of(name) for name in wanted} - pinned == set()
    assert "==" not in "".join(re.findall(r'^    "[A-Za-z][\w-]*[=<>].*$', project, flags=re.MULTILINE))


def test_links_and_pictures_of_the_documents_exist(repository: Path) -> None:
    missing = []
    documents = tracked(repository, "*.md")
    assert {"README.md", "user-guide.md", "developer-guide.md"} <= {path.name for path in documents}
    for document in documents:
        targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
        places = [target.split("#")[0] for target in targets if not re.match(r"https?:|mailto:|#", target)]
        missing += [f"{document.name}: {place}" for place in places if not (document.parent / place).exists()]
    assert missing == []


def test_model_folders_are_complete(repository: Path) -> None:
    from hyperreg.catalogue import kind_of
    from hyperreg.registration import catalogue as registration
    from hyperreg.segmentation import catalogue as segmentation

    for folder in (repository / "Resources" / "Models").glob("*"):
        if not folder.is_dir():
            continue
        assert {"weights.safetensors", "card.json", "README.md"} <= {path.name for path in folder.iterdir()}
        read = segmentation.read_card if kind_of(folder) == segmentation.KIND else registration.read_card
        card = read(folder)
        card.check_weights()
        assert card.name == folder.name


def test_nothing_names_the_machine_it_was_made_on(repository: Path) -> None:
    traces = re.compile(rb"(?<![\w.])/(?:home|root|Users|work|farm)/\w|BEGIN [A-Z ]*PRIVATE KEY")
    texts = [path for path in tracked(repository) if path.suffix not in (".png", ".safetensors", ".h5", ".gz")]
    found = [str(path.relative_to(repository)) for path in texts if traces.search(path.read_bytes())]
    assert found == []


def test_notebooks_pickles_and_large_files_stay_out(repository: Path) -> None:
    files = tracked(repository)
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".ipynb")]
    assert sum(path.stat().st_size for path in files) < LARGEST_REPOSITORY_MB * 1e6
    entry = json.loads((repository / "HyperReg.json").read_text(encoding="utf-8"))
    assert entry["scm_url"].endswith("SlicerHyperReg.git")
