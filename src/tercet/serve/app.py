"""The application: which paths there are, and who answers them."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from tercet.config.deployment import ServerLimits
from tercet.serve.errors import ClientDisconnected, RequestError, error_response, json_response
from tercet.serve.metrics import CONTENT_TYPE, Metrics
from tercet.serve.model import ServedModel
from tercet.serve.responses import describe_model
from tercet.serve.schemas import BODY, PROBLEMS, ErrorResponse, Health, ModelInfo, PredictionResponse, openapi_document
from tercet.serve.service import Service

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/drawing.js": ("drawing.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_ELSEWHERE: dict[int | str, dict[str, Any]] = {421: PROBLEMS[421]}


def make_app(model: ServedModel, name: str, service: Service, limits: ServerLimits, metrics: Metrics) -> FastAPI:
    """Return the application for one model, which needs nothing but itself: no file is read while it runs."""
    app = FastAPI(
        title=f"Tercet: {name}",
        description="Send images, get classes.",
        version="1",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    card = {**describe_model(model, name), "limits": vars(limits)}

    @app.post(
        "/v1/predict",
        response_model=PredictionResponse,
        response_description="Answers in the order of the images.",
        responses=PROBLEMS,
        openapi_extra=BODY,
    )
    async def predict(request: Request) -> Response:
        """Classify images: one as the body itself, or several as files of a form."""
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in request.scope["headers"]}
        try:
            told = await service.answer(headers, request.receive)
        except ClientDisconnected:
            request.scope["tercet.notes"]["gone"] = True
            return Response(status_code=499)  # nobody reads it; the journal does
        request.scope["tercet.notes"].update(told.notes)
        if told.failed and len(told.answers) == 1:
            return error_response(told.failed[0])
        return json_response(200, {"model": name, "answers": told.answers})

    @app.get("/v1/model", response_model=ModelInfo, response_description="The card.", responses=_ELSEWHERE)
    async def model_card() -> Response:
        """Tell the classes, the members, what was measured and calibrated, and the limits."""
        return json_response(200, card)

    @app.get("/health/live", response_model=Health, response_description="It answers.", responses=_ELSEWHERE)
    async def live() -> Response:
        """Tell that the process answers."""
        return json_response(200, {"status": "live"})

    @app.get(
        "/health/ready",
        response_model=Health,
        response_description="They are.",
        responses={503: {"model": ErrorResponse, "description": "They are not: the server is stopping."}, **_ELSEWHERE},
    )
    async def ready() -> Response:
        """Tell whether images are answered."""
        return (
            json_response(200, {"status": "ready"})
            if service.ready
            else json_response(503, {"error": "stopping"}, later=True)
        )

    @app.get(
        "/metrics",
        response_class=Response,
        response_description="The numbers.",
        responses={200: {"content": {"text/plain": {}}}, **_ELSEWHERE},
    )
    async def numbers() -> Response:
        """Tell counts and times in Prometheus' form."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    _add_pages(app)
    _add_errors(app)
    return app


def _add_pages(app: FastAPI) -> None:
    """Serve the page's files, and the one about the interface, from memory."""
    folder = files("tercet.serve") / "page"
    contents = {path: ((folder / file).read_bytes(), kind) for path, (file, kind) in _PAGE.items()}
    contents["/docs"] = (openapi_document(app.openapi()).encode(), "text/html; charset=utf-8")

    async def page(request: Request) -> Response:
        content, kind = contents[request.scope["path"]]
        return Response(content, media_type=kind)

    for path in contents:
        app.add_route(path, page, methods=["GET"], include_in_schema=False)


def _add_errors(app: FastAPI) -> None:
    """Answer every failure with a JSON document of our own words."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        request.scope["tercet.notes"]["reason"] = error.reason or str(error)
        return error_response(error)

    async def wrong_address(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        answer = json_response(error.status_code, {"error": error.detail})
        answer.headers.update(error.headers or {})
        if answer.headers.get("allow") == "GET":
            answer.headers["allow"] = "GET, HEAD"
        return answer

    async def fault(request: Request, error: Exception) -> Response:
        return json_response(500, {"error": "a fault of the server: its log tells more"}, close=True)

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(HTTPException, wrong_address)
    app.add_exception_handler(Exception, fault)


def route_paths(app: FastAPI) -> frozenset[str]:
    """Return the paths that an application has."""
    return frozenset(str(path) for route in app.routes if (path := getattr(route, "path", None)))
