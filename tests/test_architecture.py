"""Rules of the code base, checked on its syntax trees: layers, late imports, sizes, names, docstrings, unsafe calls.

One test per rule; each collects every offender.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
LAYERS = (
    ("core",),
    ("config",),
    ("data", "models"),
    ("metrics",),
    ("training", "ensemble"),
    ("inference", "plots"),
    ("explain", "export"),
    ("report", "audit", "serve"),
    ("experiments",),
    ("estimator",),
    ("cli",),
)
"""Packages from the lowest layer to the highest; packages of one layer do not import each other."""
LAYER_OF = {package: number for number, layer in enumerate(LAYERS) for package in layer}
ENTRY_POINTS = ("tercet", "tercet.__main__")  # these may import from every layer
LATE_IMPORTS = (
    "tercet",
    *(f"tercet.cli.{name}" for name in ("main", "command", "training", "inference", "deployment")),
)
LATE_IMPORTS += ("tercet.experiments.tensorboard", "tercet.experiments.results")
LATE_IMPORTS += ("tercet.inference.predictor", "tercet.data.data_module")  # ONNX files are used without PyTorch
LATE_IMPORTS += ("tercet.models.heads", "tercet.training.parts", "tercet.ensemble.methods")  # listed by --help, quickly
MAX_LINES = 300
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
UNPICKLES = ("tercet.experiments.custom_parts",)  # only what its own parent process wrote into its standard input
UNSAFE = ("weights_only=False", "pickle.load", "yaml.load(", "eval(", "exec(", "shell=True")
HEAVY = ("torch", "torchvision", "lightning", "timm", "sklearn", "matplotlib")
LIGHT = ("core.errors", "core.registry", "core.files", "core.predictions", "config")
LIGHT += ("data.augmentations", "models.heads", "training.parts")  # providers of choices


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def name(self) -> str:
        parts = self.path.relative_to(SOURCE).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        return package_of(self.name)


MODULES = [Module(path) for path in sorted((SOURCE / "tercet").rglob("*.py"))]
NAMES = {module.name for module in MODULES}


def package_of(name: str) -> str:
    """Return the package directly below `tercet` that a module belongs to; empty for tercet itself."""
    return name.split(".")[1] if "." in name else ""


def type_only(tree: ast.AST) -> set[ast.AST]:
    """Return the nodes under `if TYPE_CHECKING`."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the modules of the package that a tree imports at run time, as far as they exist."""
    skipped = type_only(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "tercet")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write absolute imports"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if (name := inner if inner in NAMES else str(node.module)).split(".")[0] == "tercet":
                    yield name


def late_imports(tree: ast.AST) -> list[int]:
    """Return the lines of the imports inside functions and classes."""
    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    skipped = type_only(tree)
    outer = [node for node in ast.walk(tree) if isinstance(node, scopes)]
    inner = {node for scope in outer for node in ast.walk(scope) if isinstance(node, ast.Import | ast.ImportFrom)}
    return sorted(node.lineno for node in inner - skipped if isinstance(node, ast.Import | ast.ImportFrom))


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Yield the public functions, classes and methods of a module without a docstring; overloads need none."""
    if ast.get_docstring(tree) is None:
        yield "the module"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    for node in public:
        if ast.get_docstring(node) is None and "overload" not in map(ast.unparse, node.decorator_list):
            yield node.name
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, kinds) and not method.name.startswith("_") and ast.get_docstring(method) is None:
                    yield f"{node.name}.{method.name}"


def code_only(tree: ast.Module) -> str:
    """Return the code of a module in a normal form, without comments and docstrings."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            plain = [item for item in body if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))]
            node.body = plain or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def unsafe(tree: ast.Module) -> list[str]:
    """Return the calls of a module that may run foreign code; `model.eval()` and `literal_eval` do not."""
    text = code_only(tree).replace(".eval(", ".").replace("literal_eval(", "").replace(".exec(", ".")
    return [word for word in UNSAFE if word in text]


def breaks_layers(module: str, target: str) -> bool:
    """Return whether an import goes upwards, or sideways between packages of one layer."""
    here, there = package_of(module), package_of(target)
    if module in ENTRY_POINTS or here == there or (here, target) == ("cli", "tercet"):  # cli prints the version
        return False
    return here not in LAYER_OF or there not in LAYER_OF or LAYER_OF[there] >= LAYER_OF[here]


def test_modules_are_found() -> None:
    assert {"tercet", "tercet.core.errors", "tercet.config.run"} <= NAMES


def test_every_package_has_a_layer() -> None:
    assert [
        module.name for module in MODULES if module.name not in ENTRY_POINTS and module.package not in LAYER_OF
    ] == []


def test_imports_point_down() -> None:
    pairs = [(module.name, target) for module in MODULES for target in imported(module.tree)]
    assert [f"{name} -> {target}" for name, target in pairs if breaks_layers(name, target)] == []


def test_imports_have_no_cycle() -> None:
    graph = {module.name: {name for name in imported(module.tree) if name != module.name} for module in MODULES}
    for name, targets in graph.items():  # tercet itself imports late, so nothing waits for it
        targets -= {"tercet"} if name != "tercet" else targets
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_imports_are_at_the_top() -> None:
    late = {module.name: late_imports(module.tree) for module in MODULES if module.name not in LATE_IMPORTS}
    assert {name: lines for name, lines in late.items() if lines} == {}


def test_files_are_short() -> None:
    lengths = {module.name: len(module.text.splitlines()) for module in MODULES}
    del lengths["tercet.config.option_types"]  # written by a script
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_module_names_are_specific() -> None:
    assert [module.name for module in MODULES if VAGUE_NAMES & set(module.name.split("."))] == []


def test_no_unsafe_calls() -> None:
    calls = {module.name: unsafe(ast.parse(module.text)) for module in MODULES}
    assert {name: words for name, words in calls.items() if words} == {name: ["pickle.load"] for name in UNPICKLES}


def test_public_names_have_docstrings() -> None:
    missing = {module.name: list(undocumented(module.tree)) for module in MODULES}
    assert {name: names for name, names in missing.items() if names} == {}


def loaded_after(statement: str, packages: tuple[str, ...]) -> list[str]:
    """Return those of the packages that a fresh interpreter has loaded after a statement."""
    script = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\nfinally:\n"
    script += f"    print('LOADED', *[name for name in {packages} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].split()[1:]


def test_low_layers_load_no_heavy_library() -> None:
    light = [name for name in sorted(NAMES) if name.startswith(tuple(f"tercet.{prefix}" for prefix in LIGHT))]
    assert loaded_after("import " + ", ".join(light), HEAVY) == []


COMMAND = "import runpy; sys.argv = ['tercet', {}]; runpy.run_module('tercet', run_name='__main__', alter_sys=True)"
STATEMENTS = {
    "import tercet": "import tercet",
    "tercet --help": COMMAND.format("'--help'"),
    "train --help": COMMAND.format("'train', '--help'"),
    "completion bash": COMMAND.format("'completion', 'bash'"),
}


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_import_and_help_load_no_heavy_library(statement: str) -> None:
    assert loaded_after(statement, HEAVY) == []


def test_training_loads_no_plots() -> None:
    """Matplotlib itself may be loaded: torchmetrics, which Fabric imports, does so where it is installed."""
    statement = "import tercet.experiments.train, tercet.inference.predict"
    assert loaded_after(statement, ("tercet.plots", "captum", "cleanlab")) == []


def test_loaded_packages_are_detected() -> None:
    assert loaded_after("import torch", HEAVY) == ["torch"]


@pytest.mark.parametrize(
    ("here", "there", "broken"),
    [
        ("tercet.config.run", "tercet.core.errors", False),
        ("tercet.config.run", "tercet.config.model", False),
        ("tercet.training.trainer", "tercet.metrics.classification", False),
        ("tercet.cli.main", "tercet.experiments.train", False),
        ("tercet", "tercet.experiments.train", False),
        ("tercet.cli.main", "tercet", False),
        ("tercet.metrics.classification", "tercet.training.trainer", True),
        ("tercet.data.table", "tercet.models.build", True),
        ("tercet.report.run", "tercet.audit.run", True),
        ("tercet.core.files", "tercet.config.run", True),
        ("tercet.ensemble.bundle", "tercet.experiments.train", True),
        ("tercet.config.run", "tercet", True),
    ],
)
def test_layers_decide_which_imports_are_allowed(here: str, there: str, broken: bool) -> None:
    assert breaks_layers(here, there) is broken


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("torch.load(path, weights_only=False)", ["weights_only=False"]),
        ("import pickle\npickle.loads(data)", ["pickle.load"]),
        ("value = eval (text)", ["eval("]),
        ("model.eval()\nast.literal_eval(text)", []),
        ("def f():\n    'yaml.load() is never used'\n    # shell=True", []),
        ("run(command, shell = True)", ["shell=True"]),
    ],
)
def test_unsafe_calls_are_detected(code: str, words: list[str]) -> None:
    assert unsafe(ast.parse(code)) == words


def test_late_imports_are_detected() -> None:
    code = "import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    import c\nclass D:\n    from e import f\n"
    assert late_imports(ast.parse(code)) == [5, 7]


def test_missing_docstrings_are_detected() -> None:
    code = "'Module.'\ndef f(): pass\ndef _g(): pass\nclass C:\n    'C.'\n    def m(self): pass\n    def _n(self): pass"
    assert list(undocumented(ast.parse(code))) == ["f", "C.m"]
