"""The OpenAPI document, and Swagger UI at `/docs`. Its files are served from this machine, so it works offline."""

from importlib import resources
from typing import Any

import fastapi_swagger
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from app.api.http.problems import Problem

ADMIN_SCHEME = "Administrator"
"""Name of the security scheme of `/admin`. It does not depend on whether callers need keys."""


def install(app: FastAPI, *, keyed: bool, form: type[BaseModel]) -> None:
    """Serve the OpenAPI document and Swagger UI.

    Args:
        app: the application.
        keyed: callers need a key; the document says so.
        form: the form of a route that is not in the document; a JSON route with the same path describes both.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document["components"]["schemas"]
        schemas["Problem"] = Problem.model_json_schema()
        schema = form.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**schema.pop("$defs", {}), **schemas, form.__name__: schema}
        for name in ("GenerationForm", form.__name__):
            fields = schemas[name]["properties"]
            fields["images"]["items"]["format"] = "binary"  # Swagger UI recognises a file by this
            for field in fields.keys() - {"prompt"}:
                # Swagger UI fills them into its forms, and sends them unless the user removes them.
                schemas[name]["properties"][field] = {
                    key: value
                    for key, value in fields[field].items()
                    if key != "examples" and not (key == "default" and value is None)
                }
        if not keyed:
            _remove_caller_keys(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
    files = str(resources.files(fastapi_swagger) / "resources")
    app.mount("/docs/assets", StaticFiles(directory=files), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=app.title,
            swagger_js_url=f"{root}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/assets/favicon-32x32.png",
        )


def _remove_caller_keys(document: dict[str, Any]) -> None:
    """Remove the keys of callers from an OpenAPI document."""
    schemes = document["components"].get("securitySchemes", {})
    for name in schemes.keys() - {ADMIN_SCHEME}:
        del schemes[name]
    if not schemes:
        document["components"].pop("securitySchemes", None)
    for operations in document["paths"].values():
        for operation in operations.values():
            if {ADMIN_SCHEME: []} not in operation.get("security", ()):
                operation.pop("security", None)
