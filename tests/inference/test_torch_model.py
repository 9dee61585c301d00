"""Programs that are not ours, or are damaged, are told before PyTorch loads them."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tercet.cli.main import main
from tercet.core.errors import ConfigError, ModelError
from tercet.ensemble.bundle import Bundle
from tercet.export.metadata import describe_bundle
from tercet.export.torch_export import assemble_program
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.predict import predict
from tercet.inference.torch_model import TorchModel, save_program
from tests.fixtures.bundles import CLASSES, make_member

MODEL, DESCRIPTION = "models/model.json", "extra/tercet.json"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    bundle = Bundle(CLASSES, (make_member("rows"),))
    save_program(assemble_program(bundle), path, describe_bundle(bundle, version="1"))
    TorchModel.load(path)
    return path


def changed(file: Path, target: Path, changes: dict[str, Callable[[bytes], bytes] | bytes | None]) -> Path:
    """Copy an archive with other records; None leaves one out, bytes add or replace one."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as copy:
        records = {entry.filename.partition("/")[2]: source.read(entry) for entry in source.infolist()}
        for name, change in changes.items():
            records[name] = change(records[name]) if callable(change) else change
        for name, content in records.items():
            if content is not None:
                copy.writestr(f"archive/{name}", content)
    return target


def edited(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return edit


def test_a_copy_of_the_records_is_as_good(file: Path, tmp_path: Path) -> None:
    assert TorchModel.load(changed(file, tmp_path / "copy.pt2", {})).classes == CLASSES


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda it: it.update(format="tercet-torch-9"), "not of format"),
        (lambda it: it.pop("format"), "not of format"),
        (lambda it: it.pop("classes"), "names of its classes"),
    ],
)
def test_a_wrong_description_is_refused(
    change: Callable[[dict], object], told: str, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told):
        TorchModel.load(changed(file, tmp_path / "changed.pt2", {DESCRIPTION: edited(change)}))


def test_a_program_that_does_not_load_is_told(file: Path, tmp_path: Path) -> None:
    wrong = changed(file, tmp_path / "changed.pt2", {MODEL: edited(lambda it: it.pop("graph_module"))})
    with pytest.raises(ModelError, match="export the bundle again"):
        TorchModel.load(wrong)


def test_archives_of_others_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not written by tercet export"):
        TorchModel.load(changed(file, tmp_path / "theirs.pt2", {"extra/tercet.json": None}))
    (tmp_path / "text.pt2").write_text("none")
    for wrong in (tmp_path / "text.pt2", tmp_path / "absent.pt2"):
        with pytest.raises(ModelError, match=wrong.name):
            TorchModel.load(wrong)


def test_a_changed_byte_is_noticed(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo("archive/data/weights/weight_0").header_offset
    content[place + 150] ^= 1
    (tmp_path / "changed.pt2").write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        TorchModel.load(tmp_path / "changed.pt2")
    (tmp_path / "short.pt2").write_bytes(content[:-100])
    with pytest.raises(ModelError, match="is damaged"):
        TorchModel.load(tmp_path / "short.pt2")


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
        OnnxModel.load(file)
    with pytest.raises(ConfigError, match="is a program for PyTorch"):
        predict(file, [])
