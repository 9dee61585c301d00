"""The documentation agrees with the code: commands parse, options exist, YAML files are valid, links resolve."""

import ast
import importlib
import inspect
import os
import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

import tercet
from tercet.cli.command import find_command
from tercet.cli.main import COMMANDS
from tercet.config.model import ModelConfig
from tercet.config.parser import ParsedArguments
from tercet.config.run import RunConfig
from tercet.config.search_space import read_space
from tercet.config.training import TrainingConfig
from tercet.core.registry import PARTS
from tercet.core.yaml_io import parse_yaml
from tercet.experiments.catalog import describe_model
from tercet.experiments.tune_study import SEARCHED
from tercet.models.build import check_network, network_descriptions
from tercet.models.members import resolve_members
from tercet.models.summary import count_parameters

ROOT = Path(__file__).resolve().parents[1]
TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHELL_MARKS = {"|", ">", ">>", "2>", "<", "&&", "||", ";", "&"}
BARE_OPTIONS = {"--help", "--config", "--version", "--"}  # of the command line itself
MODEL_PAGE = ROOT / "docs" / "models.md"
SMALL = 6_000_000  # parameters up to which a network is built to check its line of the table


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    result = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if match[1] in languages:
                result.append(Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2]))
    return result


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, list[str]]]:
    """Return position and arguments of each `tercet` command."""
    result = []
    for block in blocks("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.startswith("tercet "):
                words = shlex.split(line, comments=True)[1:]
                end = next((index for index, word in enumerate(words) if word in SHELL_MARKS), len(words))
                result.append((f"{block}: {line}", words[:end]))
    return result


def yaml_examples() -> dict[str, str]:
    """Return the YAML examples with a file name in their first line."""
    named = [re.match(r"# (\S+\.ya?ml)\n", block.text) for block in blocks("yaml")]
    return {match[1]: match.string for match in named if match}


@pytest.fixture
def example_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with the YAML examples of the documentation and the output of its searches."""
    for name, text in yaml_examples().items():
        (tmp_path / name).write_text(text, "utf-8")
    for study in {words[words.index("--output") + 1] for _, words in commands() if {"tune", "--output"} <= {*words}}:
        (tmp_path / study).mkdir(parents=True)
        (tmp_path / study / "best.yaml").write_text("members: [row-lstm]\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to an empty folder and use one core, so that members train sequentially in this process."""
    monkeypatch.chdir(tmp_path)
    if not hasattr(os, "sched_setaffinity"):
        yield tmp_path
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield tmp_path
    os.sched_setaffinity(0, cores)


def require_members(parsed: ParsedArguments) -> None:
    """Resolve the members of a command or file; weights files need not exist."""
    model, training = parsed.of(ModelConfig), parsed.of(TrainingConfig)
    if model.weights is None and parsed.of(RunConfig).members:
        resolve_members(parsed.of(RunConfig).members, model, training)


def test_all_pages_are_found() -> None:
    pages = {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "docs/README.md", "docs/command-line.md", "docs/python.md"} <= pages
    assert len(commands()) > 40 and len(blocks("python")) > 8 and len(yaml_examples()) >= 4 and len(EXAMPLES) >= 3


@pytest.mark.parametrize(("where", "words"), commands(), ids=[where for where, _ in commands()])
def test_commands_parse(where: str, words: list[str], example_files: Path) -> None:
    assert words[0] in COMMANDS, where
    if "--help" in words:
        return
    parsed = find_command(words[0]).parse_args(words[1:])
    if words[0] in ("train", "crossval"):
        require_members(parsed)
    name = parsed.positional.get("name")
    if words[0] == "models" and "--classes" in words and name != "e2e":
        check_network(name, parsed.of(ModelConfig))


def test_every_command_has_an_example() -> None:
    assert {words[0] for _, words in commands()} >= set(COMMANDS)


@cache
def known_options() -> frozenset[str]:
    return frozenset(BARE_OPTIONS).union(
        "--" + name.replace("_", "-")
        for command in map(find_command, COMMANDS)
        for name in (*command.options.fields, *command.options.aliases)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_prose_exist(page: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    options = {word for span in spans for word in re.findall(r"(?:^|\s)(--[a-z][a-z0-9._-]*)", span)}
    patterns = {option for option in options if option.endswith(".")}  # such as --data.*
    unknown = {option for option in options - patterns if option.replace("_", "-") not in known_options()}
    unknown |= {stem for stem in patterns if not any(known.startswith(stem) for known in known_options())}
    assert unknown == set()


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_files_are_valid(block: Block, example_files: Path) -> None:
    """A list is stages, a mapping with a model a member, a space one of `tune`, any other mapping a run's."""
    content = parse_yaml(block.text)
    path = example_files / "example.yaml"
    path.write_text(block.text, "utf-8")
    if isinstance(content, list):
        parsed = find_command("train").parse_args(["data", "--stages", str(path)])
        assert len(parsed.of(TrainingConfig).stage_list()) == len(content)
    elif block.text.startswith("# space.yaml"):
        assert read_space(path, SEARCHED, base=(), fixed={}).keys == tuple(content)
    elif "model" in content:
        (member,) = resolve_members([str(path)], ModelConfig(), TrainingConfig())
        assert member.network == content["model"]
    else:
        parsed = find_command("train").parse_args(["data", "--config", str(path)])
        require_members(parsed)
        assert len(parsed.of(RunConfig).members) == len(content["members"])


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_names_exist(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tercet":
            assert node.attr in tercet.__all__, f"tercet.{node.attr}"
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "tercet":
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_keywords_exist(block: Block) -> None:
    for call in (node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if not name.startswith("tercet.") or name.count(".") != 1:
            continue
        parameters = inspect.signature(getattr(tercet, call.func.attr)).parameters  # type: ignore[attr-defined]
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue  # any option: the program on the page is run
        assert [word.arg for word in call.keywords if word.arg not in parameters] == [], name


def test_every_public_name_is_documented() -> None:
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    missing = [name for name in tercet.__all__ if not re.search(rf"\b(?:tercet\.|`){name}\b", page)]
    assert missing == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    listed = set(re.findall(r"^- \[([\w./-]+\.md)\]", index.read_text("utf-8"), re.MULTILINE))
    assert listed >= {page.name for page in index.parent.glob("*.md")} - {"README.md"}


def small_networks() -> list[tuple[str, int, int, int]]:
    """Return name, pixels, parameters and buffers of the small backbones in the table of models.md."""
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| (\d+) \| ([\d,]+) \| ([\d,]+) \|", MODEL_PAGE.read_text(), re.MULTILINE)
    numbers = [(name, *(int(cell.replace(",", "")) for cell in cells)) for name, *cells in rows]
    assert len(numbers) > 20
    return [row for row in numbers if row[2] < SMALL]  # type: ignore[misc]


@pytest.mark.parametrize(("name", "pixels", "parameters", "buffers"), small_networks())
def test_table_of_backbones_matches_the_networks(name: str, pixels: int, parameters: int, buffers: int) -> None:
    summary = describe_model(name, num_classes=10).document
    assert (summary["input"]["size"], summary["parameters"], summary["buffers"]) == (
        (pixels, pixels),
        parameters,
        buffers,
    )


def test_table_of_backbones_matches_timm() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \|.*\| (yes|no) \|$", MODEL_PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 30
    described = network_descriptions()
    for name, weights in rows:
        assert described[name].startswith("timm backbone")
        assert (", pretrained weights" in described[name]) == (weights == "yes"), name


def test_table_of_larger_networks_matches_the_code() -> None:
    pattern = r"^\| `([\w-]+)` \| [^|]+ \| (\d+) . (\d+) . (\d) \| (\d+) \| ([\d,]+) \|$"
    rows = re.findall(pattern, MODEL_PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 4
    for name, height, width, channels, classes, count in rows:
        with torch.device("meta"):
            network = tercet.build(
                name, num_classes=int(classes), channels=int(channels), image_size=(int(height), int(width))
            )
        assert f"{count_parameters(network):,}" == count, name


def own_networks() -> list[tuple[str, str, str]]:
    return re.findall(r"^\| `([\w-]+)` \| [^|]+ \| ([\d,]+) \| ([\d,]+) \|$", MODEL_PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("name", "double", "single"), own_networks())
def test_table_of_small_networks_matches_the_code(name: str, double: str, single: str) -> None:
    for num_biases, count in ((2, double), (1, single)):
        config = ModelConfig(num_biases=num_biases)  # type: ignore[arg-type]
        network = tercet.build(name, num_classes=10, config=config, channels=1, image_size=(28, 28))
        assert f"{count_parameters(network):,}" == count


@pytest.mark.slow
def test_python_page_runs_as_a_program(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = PARTS["metric"]
    monkeypatch.setattr(metrics, "_values", {name: metrics[name] for name in metrics})  # the page registers metrics
    monkeypatch.setattr(metrics, "_custom", set())
    page = [block for block in blocks("python") if block.page.name == "python.md"]
    program = "".join(block.text for block in page)
    exec(compile(program, "docs/python.md", "exec"), {"__name__": "python_page"})
    output = capsys.readouterr().out
    assert (alone / "runs" / "digits" / "bundle" / "manifest.json").is_file()
    assert output.strip().endswith("(the bundle of a run is RUN/bundle)") and "ModelError 4" in output


def run_example(name: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "examples" / name
    monkeypatch.setattr("sys.argv", [str(path), *words])
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.slow
def test_training_and_prediction_examples_run(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("train_from_folder.py", monkeypatch=monkeypatch)
    assert "n = 90 samples" in capsys.readouterr().out  # the test split of 600 images
    run_example("predict_with_bundle.py", "runs/example-images-1", monkeypatch=monkeypatch)
    assert len(capsys.readouterr().out.splitlines()) == 6
    run_example("predict_with_bundle.py", monkeypatch=monkeypatch)
    assert "true label" in capsys.readouterr().out


def test_combining_example_runs(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("combine_predictions.py", monkeypatch=monkeypatch)
    output = capsys.readouterr().out
    assert "average against" in output and "weighted (cross-fitted)" in output


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short_and_start_with_their_command(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 40
    assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or "")
