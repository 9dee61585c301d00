"""What is refused before PyTorch loads a program: everything that would run, and everything that is damaged."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tercet.cli import main
from tercet.deploy.bundle import Bundle
from tercet.deploy.export.description import describe
from tercet.deploy.exported import ExportedModel
from tercet.deploy.program.archive import save
from tercet.deploy.program.assemble import assemble
from tercet.deploy.program.loaded import LoadedProgram
from tercet.ground.errors import ConfigError, ModelError
from tercet.workflows.infer.run import predict
from tests.deploy.conftest import CLASSES, make_member

MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


class Marks:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    bundle = Bundle(CLASSES, (make_member("rows"),))
    save(assemble(bundle), path, describe(bundle, version="1"))
    LoadedProgram.load(path)
    return path


def changed(file: Path, target: Path, changes: dict[str, Callable[[bytes], bytes] | bytes | None], **options) -> Path:
    """Copy an archive with other records; None leaves one out, bytes add or replace one."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as copy:
        records = {entry.filename.partition("/")[2]: source.read(entry) for entry in source.infolist()}
        for name, change in changes.items():
            records[name] = change(records[name]) if callable(change) else change
        for name, content in records.items():
            if content is not None:
                copy.writestr(f"archive/{name}", content, **options)
    return target


def edited(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return edit


def first_node(document: dict) -> dict:
    return document["graph_module"]["graph"]["nodes"][3]


def test_a_copy_of_the_records_is_as_good(file: Path, tmp_path: Path) -> None:
    assert LoadedProgram.load(changed(file, tmp_path / "copy.pt2", {})).classes == CLASSES


@pytest.mark.parametrize(
    ("record", "change", "told"),
    [
        (MODEL, lambda it: first_node(it).update(target="torch.os.system"), "calls 'torch.os.system'"),
        (MODEL, lambda it: first_node(it).update(target="torch.ops.aten.add.__init__"), "calls 'torch.ops.aten.add"),
        (MODEL, lambda it: first_node(it).update(target="torch.ops.aten.from_file.default"), "calls 'torch.ops.aten.f"),
        (MODEL, lambda it: first_node(it).update(target="_operator.methodcaller"), "calls '_operator.methodcaller'"),
        (MODEL, lambda it: it.update(guards_code=["__import__('os')"]), "code of its own"),
        (MODEL, lambda it: it["range_constraints"].update({"exit()": {}}), "no name of a size"),
        (MODEL, lambda it: first_node(it).update(metadata={"custom": "{}"}), "metadata"),
        (MODEL, lambda it: first_node(it)["inputs"].append({"arg": {"as_custom_obj": {}}}), "of the kind"),
        (MODEL, lambda it: it.pop("graph_module"), "not as torch.export writes it"),
        (WEIGHTS, lambda it: it["config"].popitem()[1].update(path_name="x") or it.update(config=1), "not as torch"),
        (WEIGHTS, lambda it: next(iter(it["config"].values())).update(use_pickle=True), "pickled objects"),
        (WEIGHTS, lambda it: next(iter(it["config"].values())).update(path_name="../x"), "pickled objects"),
        ("extra/tercet.json", lambda it: it.update(format="tercet-torch-9"), "not of format"),
        ("extra/tercet.json", lambda it: it.pop("classes"), "names of its classes"),
    ],
)
def test_what_would_do_more_than_compute_is_refused(
    record: str, change: Callable[[dict], object], told: str, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told):
        LoadedProgram.load(changed(file, tmp_path / "changed.pt2", {record: edited(change)}))


def test_text_of_sizes_is_not_evaluated(file: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = f"__import__('os').mkdir('{mark}')"

    def change(document: dict) -> None:
        for value in document["graph_module"]["graph"]["sym_int_values"].values():
            value["as_expr"]["expr_str"] = text

    wrong = changed(file, tmp_path / "sizes.pt2", {MODEL: edited(change)})
    with pytest.raises(ModelError, match="no sum or product of sizes"):
        LoadedProgram.load(wrong)
    assert not mark.exists()


def test_pickled_inputs_are_not_run(file: Path, tmp_path: Path) -> None:
    """PyTorch itself runs them: where its safe reader fails it takes the other one."""
    marks = [tmp_path / "ours", tmp_path / "torch"]
    for mark, load in zip(marks, (LoadedProgram.load, torch.export.load), strict=True):
        content = io.BytesIO()
        torch.save((Marks(mark),), content, pickle_module=pickle)
        wrong = changed(file, tmp_path / "inputs.pt2", {"data/sample_inputs/model.pt": content.getvalue()})
        try:
            load(wrong)
        except Exception as error:
            assert load is torch.export.load or "hold more than tensors" in str(error)
    assert [mark.exists() for mark in marks] == [False, True]


@pytest.mark.parametrize("name", ["data/constants/custom_obj_0", "data/weights/model.pt", "data/aotinductor/x.so", "v"])
def test_other_records_are_refused(name: str, file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="which exported programs do not"):
        LoadedProgram.load(changed(file, tmp_path / "more.pt2", {name: b"x"}))


def test_archives_of_others_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not written by tercet export"):
        LoadedProgram.load(changed(file, tmp_path / "theirs.pt2", {"extra/tercet.json": None}))
    with pytest.raises(ModelError, match="is compressed"):
        LoadedProgram.load(changed(file, tmp_path / "small.pt2", {}, compress_type=zipfile.ZIP_DEFLATED))
    (tmp_path / "text.pt2").write_text("none")
    for wrong in (tmp_path / "text.pt2", tmp_path / "absent.pt2"):
        with pytest.raises(ModelError, match=wrong.name):
            LoadedProgram.load(wrong)


def test_a_changed_byte_is_noticed(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo("archive/data/weights/weight_0").header_offset
    content[place + 150] ^= 1
    (tmp_path / "changed.pt2").write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        LoadedProgram.load(tmp_path / "changed.pt2")
    (tmp_path / "short.pt2").write_bytes(content[:-100])
    with pytest.raises(ModelError, match=r"is damaged|is refused"):
        LoadedProgram.load(tmp_path / "short.pt2")


@pytest.mark.parametrize("words", [["predict"], ["evaluate"], ["serve"]])
def test_a_program_is_asked_with_pytorch(
    words: list[str], file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [] if words == ["serve"] else [str(tmp_path)]
    assert main([*words, str(file), *given]) == 2
    told = capfd.readouterr().err
    assert "is a program for PyTorch" in told and "use the bundle" in told and "tercet export RUN model.onnx" in told


def test_a_folder_of_such_a_name_may_be_a_bundle(tmp_path: Path) -> None:
    bundle = Bundle(CLASSES, (make_member("rows"),))
    bundle.save(tmp_path / "odd.pt2")
    assert main(["predict", str(tmp_path / "odd.pt2"), str(tmp_path)]) == 3  # it has no images, but is no program


def test_python_is_told_likewise(file: Path) -> None:
    with pytest.raises(ConfigError, match="is a program for PyTorch"):
        ExportedModel.load(file)
    with pytest.raises(ConfigError, match="is a program for PyTorch"):
        predict(file, [])
