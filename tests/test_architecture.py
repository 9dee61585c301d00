"""The house rules, read from the syntax trees: floors, late imports, sizes, names, docstrings, and nothing unsafe."""

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
FLOORS = {
    "ground": 0,
    "records": 1,
    "data": 2,
    "models": 2,
    "training": 3,
    "evaluation": 3,
    "deploy": 4,
    "pictures": 4,
    "workflows": 5,
    "verbs": 6,
    "cli": 7,
}
BESIDE = {("training", "evaluation")}  # rooms of one floor that may see each other, in this direction
NOT_BELOW = {(upper, lower) for upper in ("training", "evaluation") for lower in ("data", "models")}
PACKAGES = ("options", "blend", "inspect", "runs", "train", "crossval", "compare", "tune", "study", "infer", "report")
PACKAGES += ("audit", "explain", "ship")  # of workflows; each sees only those before it
DOORS = ("tercet", "tercet.__main__")  # they lead to every floor
LATE_IMPORTS = ("tercet", "tercet.cli", "tercet.verbs", "tercet.verbs.serving", "tercet.verbs.shipping")
LATE_IMPORTS += ("tercet.workflows.train.tensorboard_images",)
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
UNSAFE = ("weights_only=False", "pickle.load", "yaml.load(", "eval(", "exec(", "shell=True")
HEAVY = ("torch", "torchvision", "lightning", "timm", "sklearn", "matplotlib")


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
    def room(self) -> str:
        return room_of(self.name)


MODULES = [Module(path) for path in sorted((SOURCE / "tercet").rglob("*.py"))]
NAMES = {module.name for module in MODULES}
ALL = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)


def room_of(name: str) -> str:
    """Return the room of a module; empty for the package's own door."""
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
            assert node.level == 0, f"line {node.lineno}: relative imports hide the floor"
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
    """Yield the public functions, classes and methods of a module that have no docstring; overloads need none."""
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
    """Return a module without its comments and docstrings, in one spelling."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            plain = [item for item in body if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))]
            node.body = plain or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def unsafe(tree: ast.Module) -> list[str]:
    """Return what a module does that may run a stranger's code; `model.eval()` and `literal_eval` do not."""
    text = code_only(tree).replace(".eval(", ".").replace("literal_eval(", "").replace(".exec(", ".")
    return [word for word in UNSAFE if word in text]


def sees_above(module: str, target: str) -> bool:
    """Say whether an import breaks the floors."""
    here, there = room_of(module), room_of(target)
    if module in DOORS or here == there or (here, target) == ("cli", "tercet"):  # the verbs show the version
        return False
    if there not in FLOORS or here not in FLOORS:
        return True
    pair = (here, there)
    return pair in NOT_BELOW or not (FLOORS[there] < FLOORS[here] or pair in BESIDE)


def test_the_package_is_here() -> None:
    assert {"tercet", "tercet.ground.errors", "tercet.records.config"} <= NAMES


@ALL
def test_every_room_has_a_floor(module: Module) -> None:
    assert module.name in DOORS or module.room in FLOORS, f"{module.name} belongs to no floor"


@ALL
def test_imports_point_down(module: Module) -> None:
    assert [target for target in imported(module.tree) if sees_above(module.name, target)] == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.room == "workflows"], ids=lambda it: it.name)
def test_packages_of_workflows_see_those_before_them(module: Module) -> None:
    if module.name == "tercet.workflows":
        return
    here = PACKAGES.index(module.name.split(".")[2])
    others = {target.split(".")[2] for target in imported(module.tree) if target.startswith("tercet.workflows.")}
    assert [name for name in others if PACKAGES.index(name) > here] == []


def test_no_import_goes_in_a_circle() -> None:
    graph = {module.name: {name for name in imported(module.tree) if name != module.name} for module in MODULES}
    for name, targets in graph.items():  # a door imports late, so nobody waits for it
        targets -= {"tercet"} if name != "tercet" else targets
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go in a circle: {' <- '.join(error.args[1])}")


@ALL
def test_imports_stand_at_the_top(module: Module) -> None:
    if module.name not in LATE_IMPORTS:
        assert late_imports(module.tree) == []


@ALL
def test_files_are_short(module: Module) -> None:
    assert len(module.text.splitlines()) <= 300


@ALL
def test_names_say_something(module: Module) -> None:
    assert not FORBIDDEN_NAMES & set(module.name.split("."))


@ALL
def test_nothing_unsafe(module: Module) -> None:
    assert unsafe(ast.parse(module.text)) == []


@ALL
def test_what_is_public_is_documented(module: Module) -> None:
    assert list(undocumented(module.tree)) == []


def test_low_floors_are_light() -> None:
    light = [module.name for module in MODULES if module.room == "records"]
    light += [f"tercet.ground.{name}" for name in ("errors", "registry", "files")]
    assert heavy_after("import " + ", ".join(light)) == []


def heavy_after(statement: str) -> list[str]:
    """Return the heavy packages that a fresh interpreter has loaded after a statement."""
    script = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\nfinally:\n"
    script += f"    print('LOADED', *[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].split()[1:]


HELP = "import runpy; sys.argv = ['tercet', '--help']; runpy.run_module('tercet', run_name='__main__', alter_sys=True)"


@pytest.mark.parametrize("statement", ["import tercet", HELP], ids=["import tercet", "python -m tercet --help"])
def test_the_door_is_light(statement: str) -> None:
    assert heavy_after(statement) == []


def test_the_road_of_training_draws_nothing() -> None:
    """Matplotlib itself may be loaded: torchmetrics, under Fabric, does so where it is installed."""
    script = "import sys, tercet.workflows.train.run, tercet.workflows.infer.run\n"
    script += "print([name for name in sys.modules if name.startswith(('tercet.pictures', 'captum', 'cleanlab'))])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "[]\n"


def test_a_loaded_heavy_package_would_be_seen() -> None:
    assert heavy_after("import torch") == ["torch"]


@pytest.mark.parametrize(
    ("here", "there", "broken"),
    [
        ("tercet.records.config", "tercet.ground.errors", False),
        ("tercet.records.config", "tercet.records.contracts", False),
        ("tercet.training.loop", "tercet.evaluation.metrics", False),
        ("tercet.cli", "tercet.workflows.train.run", False),
        ("tercet", "tercet.workflows.train.run", False),
        ("tercet.cli", "tercet", False),
        ("tercet.evaluation.metrics", "tercet.training.loop", True),
        ("tercet.data.samples", "tercet.models.build", True),
        ("tercet.training.loop", "tercet.models.build", True),
        ("tercet.ground.files", "tercet.records.config", True),
        ("tercet.deploy.bundle", "tercet.workflows.train.run", True),
        ("tercet.records.config", "tercet", True),
    ],
)
def test_the_floors_are_told_apart(here: str, there: str, broken: bool) -> None:
    assert sees_above(here, there) is broken


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("torch.load(path, weights_only=False)", ["weights_only=False"]),
        ("import pickle\npickle.loads(data)", ["pickle.load"]),
        ("value = eval (text)", ["eval("]),
        ("model.eval()\nast.literal_eval(text)", []),
        ("def f():\n    'yaml.load() is never used'\n    # shell=True", []),
        ("run(command, shell = True)", ["shell=True"]),
    ],
)
def test_the_unsafe_is_told_from_the_safe(code: str, found: list[str]) -> None:
    assert unsafe(ast.parse(code)) == found


def test_late_imports_are_seen() -> None:
    code = "import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    import c\nclass D:\n    from e import f\n"
    assert late_imports(ast.parse(code)) == [5, 7]


def test_missing_docstrings_are_seen() -> None:
    code = "'Module.'\ndef f(): pass\ndef _g(): pass\nclass C:\n    'C.'\n    def m(self): pass\n    def _n(self): pass"
    assert list(undocumented(ast.parse(code))) == ["f", "C.m"]
