"""The OpenAPI schema: generated requests get documented responses and no server error."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ensure_resource_availability,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.serve.server import PATIENCE, Server

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    ensure_resource_availability,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]
OPERATIONS = [
    ("/v1/predict", "POST", 40),
    ("/v1/model", "GET", 4),
    ("/health/live", "GET", 4),
    ("/health/ready", "GET", 4),
    ("/metrics", "GET", 4),
]


@pytest.mark.parametrize(("path", "method", "examples"), OPERATIONS, ids=[path for path, _, _ in OPERATIONS])
def test_generated_requests_get_documented_responses(server: Server, path: str, method: str, examples: int) -> None:
    schema = httpx.get(f"{server.url}/openapi.json", trust_env=False, timeout=PATIENCE).json()
    operation = schemathesis.openapi.from_dict(schema)[path][method]
    statuses = set()

    @given(case=operation.as_strategy())
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: schemathesis.Case) -> None:
        response = case.call(base_url=server.url, timeout=PATIENCE)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    send()
    assert statuses
    if path == "/v1/predict":
        assert statuses <= {400, 413, 415, 422, 200} and 415 in statuses
    else:
        assert statuses == {200}


def test_schema_lists_every_operation(server: Server) -> None:
    schema = httpx.get(f"{server.url}/openapi.json", trust_env=False, timeout=PATIENCE).json()
    operations = {(path, method.upper()) for path, methods in schema["paths"].items() for method in methods}
    assert operations == {(path, method) for path, method, _ in OPERATIONS}
