"""The FastAPI application: routes and exception handlers."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from jinja2 import Template
from starlette.exceptions import HTTPException

from tercet.config.deployment import ServerLimits
from tercet.inference.exported_model import ExportedModel
from tercet.serve.errors import ClientDisconnected, RequestError, error_response, json_response
from tercet.serve.middleware import LOG_FIELDS
from tercet.serve.monitoring import CONTENT_TYPE, Metrics
from tercet.serve.responses import describe_model
from tercet.serve.schemas import (
    ERROR_RESPONSES,
    REQUEST_BODY,
    ErrorResponse,
    Health,
    ModelInfo,
    PredictionResponse,
)
from tercet.serve.service import Service

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/drawing.js": ("drawing.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HOST_ERROR: dict[int | str, dict[str, Any]] = {421: ERROR_RESPONSES[421]}


def make_app(model: ExportedModel, name: str, service: Service, limits: ServerLimits, metrics: Metrics) -> FastAPI:
    """Return the application for one model; it reads no files while it runs."""
    app = FastAPI(
        title=f"Tercet: {name}",
        description="Image classification over HTTP.",
        version="1",
        docs_url=None,  # FastAPI's page loads scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    model_info = {**describe_model(model, name), "limits": vars(limits)}

    @app.post(
        "/v1/predict",
        response_model=PredictionResponse,
        response_description="Predictions in the order of the images.",
        responses=ERROR_RESPONSES,
        openapi_extra=REQUEST_BODY,
    )
    async def predict(request: Request) -> Response:
        """Classify images: one as the request body, or several as multipart/form-data."""
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in request.scope["headers"]}
        try:
            result = await service.predict(headers, request.receive)
        except ClientDisconnected:
            request.scope[LOG_FIELDS]["disconnected"] = True
            return Response(status_code=499)  # only for the log: the client is gone
        request.scope[LOG_FIELDS].update(result.log_fields)
        if result.errors and len(result.predictions) == 1:
            return error_response(result.errors[0])
        return json_response(200, {"model": name, "predictions": result.predictions})

    @app.get("/v1/model", response_model=ModelInfo, response_description="Model description.", responses=_HOST_ERROR)
    async def model_description() -> Response:
        """Return classes, members, scores, calibration and limits."""
        return json_response(200, model_info)

    @app.get("/health/live", response_model=Health, response_description="Live.", responses=_HOST_ERROR)
    async def live() -> Response:
        """Liveness: the process responds."""
        return json_response(200, {"status": "live"})

    @app.get(
        "/health/ready",
        response_model=Health,
        response_description="Ready.",
        responses={503: {"model": ErrorResponse, "description": "Not ready: the server is stopping."}, **_HOST_ERROR},
    )
    async def ready() -> Response:
        """Readiness: the server accepts prediction requests."""
        return (
            json_response(200, {"status": "ready"})
            if service.ready
            else json_response(503, {"error": "the server is stopping"}, retry=True)
        )

    @app.get(
        "/metrics",
        response_class=Response,
        response_description="Prometheus text format.",
        responses={200: {"content": {"text/plain": {}}}, **_HOST_ERROR},
    )
    async def prometheus() -> Response:
        """Return request, batch and process metrics."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    _add_pages(app)
    _add_exception_handlers(app)
    return app


def _add_pages(app: FastAPI) -> None:
    """Serve the web page and the API page from memory."""
    folder = files("tercet.serve") / "page"
    contents = {path: ((folder / file).read_bytes(), kind) for path, (file, kind) in _PAGE.items()}
    # the style of reports, then that of this page
    style = (files("tercet.plots") / "base.css").read_bytes() + (folder / "page.css").read_bytes()
    contents["/page.css"] = (style, "text/css; charset=utf-8")
    documentation = Template((folder / "docs.html").read_text("utf-8"), autoescape=True)
    contents["/docs"] = (documentation.render(app.openapi()).encode(), "text/html; charset=utf-8")

    async def page(request: Request) -> Response:
        content, kind = contents[request.scope["path"]]
        return Response(content, media_type=kind)

    for path in contents:
        app.add_route(path, page, methods=["GET"], include_in_schema=False)


def _add_exception_handlers(app: FastAPI) -> None:
    """Return every error as a JSON `ErrorResponse`, without details of the exception."""

    async def on_request_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        request.scope[LOG_FIELDS]["reason"] = error.reason or str(error)
        return error_response(error)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = json_response(error.status_code, {"error": error.detail})
        response.headers.update(error.headers or {})
        if response.headers.get("allow") == "GET":
            response.headers["allow"] = "GET, HEAD"
        return response

    async def on_exception(request: Request, error: Exception) -> Response:
        return json_response(500, {"error": "internal server error: see the server's log"}, close=True)

    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, on_exception)


def route_paths(app: FastAPI) -> frozenset[str]:
    """Return the paths of all routes."""
    return frozenset(str(path) for route in app.routes if (path := getattr(route, "path", None)))
