"""Foreign and damaged torch.export programs are refused before PyTorch loads them."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tercet.cli.main import main
from tercet.core.errors import ConfigError, ModelError
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.export.metadata import describe_bundle
from tercet.export.torch_export import assemble_program
from tercet.inference.onnx_model import OnnxModel
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


def copy_archive(file: Path, target: Path, changes: dict[str, Callable[[bytes], bytes] | bytes | None]) -> Path:
    """Copy an archive with changed records; None removes a record, bytes add or replace it."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as copy:
        records = {entry.filename.partition("/")[2]: source.read(entry) for entry in source.infolist()}
        for name, change in changes.items():
            records[name] = change(records[name]) if callable(change) else change
        for name, content in records.items():
            if content is not None:
                copy.writestr(f"archive/{name}", content)
    return target


def edit_json(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return edit


def test_a_copied_archive_loads(file: Path, tmp_path: Path) -> None:
    assert TorchModel.load(copy_archive(file, tmp_path / "copy.pt2", {})).classes == CLASSES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.update(format="tercet-torch-9"), "not of format"),
        (lambda document: document.pop("classes"), "names of its classes"),
    ],
)
def test_invalid_metadata_are_refused(
    change: Callable[[dict], object], message: str, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        TorchModel.load(copy_archive(file, tmp_path / "changed.pt2", {DESCRIPTION: edit_json(change)}))


def test_a_program_that_does_not_load_is_refused(file: Path, tmp_path: Path) -> None:
    wrong = copy_archive(
        file, tmp_path / "changed.pt2", {MODEL: edit_json(lambda document: document.pop("graph_module"))}
    )
    with pytest.raises(ModelError, match="export the bundle again"):
        TorchModel.load(wrong)


def test_other_archives_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not written by tercet export"):
        TorchModel.load(copy_archive(file, tmp_path / "theirs.pt2", {"extra/tercet.json": None}))
    (tmp_path / "text.pt2").write_text("none")
    for wrong in (tmp_path / "text.pt2", tmp_path / "absent.pt2"):
        with pytest.raises(ModelError, match=wrong.name):
            TorchModel.load(wrong)


def test_changed_and_truncated_archives_are_refused(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        offset = archive.getinfo("archive/data/weights/weight_0").header_offset
    content[offset + 150] ^= 1
    (tmp_path / "changed.pt2").write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        TorchModel.load(tmp_path / "changed.pt2")
    (tmp_path / "short.pt2").write_bytes(content[:-100])
    with pytest.raises(ModelError, match="is damaged"):
        TorchModel.load(tmp_path / "short.pt2")


def test_programs_are_not_served(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(file)]) == 2
    error = capfd.readouterr().err
    assert "PyTorch" in error and "use the bundle" in error and "tercet export RUN model.onnx" in error


def test_a_bundle_folder_may_end_in_pt2(tmp_path: Path) -> None:
    bundle = Bundle(CLASSES, (make_member("rows"),))
    bundle.save(tmp_path / "odd.pt2")
    assert main(["predict", str(tmp_path / "odd.pt2"), str(tmp_path)]) == 3  # the error: there are no images


def test_programs_are_no_bundles_or_onnx_files(file: Path) -> None:
    for load in (OnnxModel.load, load_bundle):
        with pytest.raises(ConfigError, match="PyTorch"):
            load(file)
