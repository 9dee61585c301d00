"""Responses: predictions, model description, health, metrics, errors."""

import base64
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tercet.core.calibration import Calibration, PredictionSets, Rejection
from tercet.core.errors import DataError
from tercet.data.decode import WEB_FORMATS, decode
from tercet.inference.onnx_model import OnnxModel
from tercet.serve.schemas import ErrorResponse, Health, ModelInfo, PredictionResponse
from tests.inference.tiny import CLASSES
from tests.serve.models import BLUE, GREEN, MAP, MEMBERS, RED, expected, picture, write_coloured
from tests.serve.server import Server, local_client


def test_single_image_as_body(server: Server) -> None:
    with server.client() as client:
        response = client.post("/v1/predict", content=GREEN, headers={"Content-Type": "image/png"})
    assert response.status_code == 200
    body = PredictionResponse.model_validate_json(response.content)
    (prediction,) = body.predictions
    assert (body.model, prediction.file, prediction.label, prediction.error) == ("colours", None, "green", None)
    probabilities = expected((0, 200, 0))
    assert prediction.probability == pytest.approx(probabilities[1], abs=1e-5)
    assert [score.label for score in prediction.top or []] == ["green", "red", "blue"]
    assert [(member.name, member.label) for member in prediction.members or []] == [(name, "green") for name in MEMBERS]
    assert (prediction.members or [])[1].probability == pytest.approx(expected((0, 200, 0), 3)[1], abs=1e-5)
    assert prediction.map is not None and (prediction.map.height, prediction.map.width) == MAP
    assert list(base64.b64decode(prediction.map.values)) == [255, 128, 0] * 2
    assert prediction.map.box == [0, 0.125, 1, 0.75]  # 6 of 8 columns
    assert (prediction.rejected, prediction.prediction_set, prediction.labels) == (None, None, None)


@pytest.mark.parametrize("kind", ["", "image/anything", "application/octet-stream"])
def test_image_format_is_detected_by_content(server: Server, kind: str) -> None:
    for image_format in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"):
        with server.client() as client:
            response = client.post(
                "/v1/predict", content=picture((0, 0, 200), kind=image_format), headers={"Content-Type": kind}
            )
        assert response.json()["predictions"][0]["label"] == "blue"


def test_predictions_keep_the_order_of_the_images(server: Server) -> None:
    files = [("files", ("r.png", RED)), ("files", ("same.png", picture((0, 0, 99), (3, 9))))]
    files += [("files", ("no.txt", b"no image")), ("other", ("same.png", GREEN))]
    with server.client() as client:
        response = client.post("/v1/predict", files=files)
    assert response.status_code == 200
    predictions = PredictionResponse.model_validate_json(response.content).predictions
    assert [prediction.file for prediction in predictions] == ["r.png", "same.png", "no.txt", "same.png"]
    assert [prediction.label for prediction in predictions] == ["red", "blue", None, "green"]
    assert predictions[2].error is not None and "not an image" in predictions[2].error
    assert response.json()["predictions"][2].keys() == {"file", "error"}


def test_predictions_equal_those_of_the_file(server: Server, folder: Path) -> None:
    generator = np.random.default_rng(3)
    images = [generator.integers(0, 255, (5 + index, 9, 3)).astype(np.uint8) for index in range(6)]
    expected_predictions = OnnxModel.load(folder / "colours.onnx", threads=1).predict(images)
    for index, image in enumerate(images):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        with server.client() as client:
            prediction = client.post("/v1/predict", content=stream.getvalue()).json()["predictions"][0]
        scores = {score["label"]: score["probability"] for score in prediction["top"]}
        expected_scores = expected_predictions.probabilities[index]  # type: ignore[union-attr]
        assert [scores[name] for name in CLASSES] == pytest.approx(expected_scores, abs=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(server: Server, orientation: int) -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :, 0] = 150
    exif = Image.Exif()
    exif[0x112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", exif=exif)
    with server.client() as client:
        prediction = client.post("/v1/predict", content=stream.getvalue()).json()["predictions"][0]
    assert prediction["label"] == "red"


def test_concurrent_requests_get_their_own_predictions(server: Server) -> None:
    generator = np.random.default_rng(0)
    colours = [tuple(int(value) for value in generator.integers(0, 250, 3)) for _ in range(200)]
    sizes = [(8, 6), (8, 6), (8, 6), (7, 9)]
    files = [picture(colour, sizes[index % 4]) for index, colour in enumerate(colours)]

    def predict(index: int) -> dict[str, float]:
        response = client.post("/v1/predict", content=files[index])
        assert response.status_code == 200, response.text
        return {entry["label"]: entry["probability"] for entry in response.json()["predictions"][0]["top"]}

    with server.client() as client, ThreadPoolExecutor(32) as pool:
        results = list(pool.map(predict, range(200)))
    for colour, scores in zip(colours, results, strict=True):
        assert [scores[name] for name in CLASSES] == pytest.approx(expected(colour), abs=1e-5)
    metrics = httpx.get(f"{server.url}/metrics", trust_env=False).text
    total = next(line for line in metrics.splitlines() if line.startswith("tercet_batch_size_count"))
    single = next(line for line in metrics.splitlines() if 'tercet_batch_size_bucket{le="1.0"}' in line)
    assert float(single.split()[-1]) < float(total.split()[-1])  # some batches had several images


def failed_images(server: Server) -> list[dict[str, Any]]:
    return [image for event in server.events("request") for image in event.get("failed", [])]


@pytest.mark.parametrize(
    ("content", "kind", "status", "message"),
    [
        (b"no image", "image/png", 415, "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 415, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image/eps", 415, "not an image"),
        (b"GIF89a<script>alert(1)</script>", "image/gif", 415, "not an image"),
        (picture((9, 9, 9), (200, 200), "JPEG")[:-100], "image/png", 422, "damaged"),
        (b"", "image/png", 400, "empty"),
        (RED, "text/html", 415, "Content-Type"),
        (RED, "application/x-www-form-urlencoded", 415, "Content-Type"),
        (picture((255, 0, 0)), "image/png", 422, "not finite"),
        (picture((9, 9, 9), (1001, 1000)), "image/png", 422, "more than 1000000 pixels"),
        (picture((9, 9, 9), (9000, 9000)), "image/png", 422, "more than 1000000 pixels"),
    ],
)
def test_unusable_images_are_rejected_and_logged(
    server: Server, content: bytes, kind: str, status: int, message: str
) -> None:
    with server.client() as client:
        response = client.post("/v1/predict", content=content, headers={"Content-Type": kind})
    assert response.status_code == status
    assert message in ErrorResponse.model_validate_json(response.content).error
    if content and kind.startswith("image/"):
        digest = hashlib.sha256(content).hexdigest()
        server.wait_for(lambda: any(digest == image["sha256"] and image["reason"] for image in failed_images(server)))


def stored(mode: str) -> bytes:
    """Return a TIFF file; only TIFF has these modes."""
    stream = io.BytesIO()
    Image.new(mode, (8, 6)).save(stream, "TIFF")
    return stream.getvalue()


UNSUPPORTED = {
    "integers": (stored("I"), "mode I (32 bits per pixel) has an unknown range: convert it to 8 or 16 bits"),
    "floats": (stored("F"), "mode F (32 bits per pixel) has an unknown range: convert it to 8 or 16 bits"),
    "cut short": (picture((9, 9, 9), (200, 200), "JPEG")[:-100], "truncated, damaged"),
    "seven bits": (
        picture((9, 9, 9), kind="BMP").replace(b"\x01\x00\x18\x00", b"\x01\x00\x07\x00"),
        "unsupported encoding",
    ),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_encodings_list_the_accepted_formats(server: Server, kind: str) -> None:
    """The message equals that of `tercet predict`, without the text of a library exception."""
    content, message = UNSUPPORTED[kind]
    with pytest.raises(DataError) as caught:
        decode(content, max_pixels=10**6)
    with server.client() as client:
        response = client.post("/v1/predict", content=content)
    error = ErrorResponse.model_validate_json(response.content).error
    assert response.status_code == 422
    assert message in error and all(name in error for name in WEB_FORMATS)
    cause = caught.value.__cause__
    assert message in str(caught.value) if cause is None else str(cause) not in error


def test_non_finite_output_affects_one_image_only(server: Server) -> None:
    """The images have the same size and are computed in one batch."""
    files = [("files", (f"{index}.png", content)) for index, content in enumerate([RED, picture((255, 9, 9)), BLUE])]
    with server.client() as client:
        predictions = client.post("/v1/predict", files=files).json()["predictions"]
    assert [prediction.get("label") for prediction in predictions] == ["red", None, "blue"]
    assert "not finite" in predictions[1]["error"]


def test_model_description_and_health(server: Server) -> None:
    with server.client() as client:
        info = ModelInfo.model_validate_json(client.get("/v1/model").content)
        assert (info.classes, info.maps, info.sets, info.combiner) == (CLASSES, True, False, "average")
        assert info.card["metrics"] == {"accuracy": 0.5} and info.limits["max_pixels"] == 1_000_000
        assert [member["name"] for member in info.members] == list(MEMBERS) and len(info.sha256 or "") == 64
        for path, status in (("/health/live", "live"), ("/health/ready", "ready")):
            assert Health.model_validate_json(client.get(path).content).status == status


def test_metrics_are_prometheus_text(server: Server) -> None:
    with server.client() as client:
        client.get("/made/up/by-a-client")
        text = client.get("/metrics").text
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {"tercet_requests_total", "tercet_batch_size", "tercet_queue_images", "tercet_held_bytes"} <= families
    assert "process_resident_memory_bytes" in families
    assert 'tercet_requests_total{path="other",status="404"}' in text and "made" not in text
    assert "\ntercet_queue_images 0.0" in text and "\ntercet_held_bytes 0.0" in text


def test_api_page_loads_nothing_from_other_hosts(server: Server) -> None:
    with server.client() as client:
        schema = client.get("/openapi.json").json()
        page = client.get("/docs").text
    assert set(schema["paths"]) == {"/v1/predict", "/v1/model", "/health/live", "/health/ready", "/metrics"}
    assert all(f"{path}</code>" in page for path in schema["paths"])
    assert "http:" not in page and "https:" not in page and "<script" not in page


def test_rejection_prediction_sets_and_multilabel(folder: Path) -> None:
    reject = Rejection(threshold=0.9, risk=0.05, confidence=0.95, accepted=0.5, errors=0.01, rows=99)
    calibration = Calibration(reject=reject, conformal=PredictionSets(quantile=0.9, coverage=0.9, rows=99))
    single = write_coloured(folder / "calibrated.onnx", calibration=calibration.to_dict())
    with local_client(single, name="own name") as client:
        certain, uncertain = (client.post("/v1/predict", content=image).json() for image in (RED, picture((60, 99, 9))))
        assert certain["model"] == "own name"
        assert certain["predictions"][0]["rejected"] is False and certain["predictions"][0]["prediction_set"] == ["red"]
        (prediction,) = PredictionResponse.model_validate(uncertain).predictions
        assert (prediction.label, prediction.rejected, prediction.prediction_set) == ("green", True, ["green", "red"])
    multilabel = write_coloured(folder / "sets.onnx", sets=True)
    with local_client(multilabel) as client:
        (prediction,) = PredictionResponse.model_validate(
            client.post("/v1/predict", content=picture((90, 99, 0))).json()
        ).predictions
        assert prediction.labels == ["green", "red"] and prediction.label is None and len(prediction.top or []) == 3


def test_log_has_one_ascii_line_per_request(server: Server) -> None:
    with server.client() as client:
        client.get("/%0d%0a%1b[31m%e2%80%ae<b>")
    server.wait_for(lambda: server.events("request")[-1]["path"].endswith("<b>"))
    assert server.events("request")[-1]["path"] == "/\r\n\x1b[31m\u202e<b>"
    line = next(line for line in reversed(server.lines) if "<b>" in line)
    assert line.isascii() and "\x1b" not in line and line.count("\n") == 1
