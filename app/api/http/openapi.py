"""The OpenAPI document, and `/docs` from files on this machine: it works offline, and nobody learns who reads it."""

from importlib import resources
from typing import Any

import fastapi_swagger
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles

from app.api.chats.request import TurnForm
from app.api.http.problems import Problem


def install(app: FastAPI, *, keyed: bool) -> None:
    """Serve Swagger UI for the app's OpenAPI document.

    Args:
        app: the application.
        keyed: whether callers need a key, which the document then says.
    """
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        schemas = document["components"]["schemas"]
        schemas["Problem"] = Problem.model_json_schema()
        form = TurnForm.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**form.pop("$defs", {}), **schemas, "TurnForm": form}
        for name in ("GenerationForm", "TurnForm"):
            fields = schemas[name]["properties"]
            fields["images"]["items"]["format"] = "binary"  # what Swagger UI knows a file by
            for field in fields.keys() - {"prompt"}:
                # Swagger UI fills them into its forms, and sends whatever nobody has taken out again.
                schemas[name]["properties"][field] = {
                    key: value
                    for key, value in fields[field].items()
                    if key != "examples" and not (key == "default" and value is None)
                }
        if not keyed:
            document["components"].pop("securitySchemes", None)
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation.pop("security", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
    files = str(resources.files(fastapi_swagger) / "resources")
    app.mount("/docs/assets", StaticFiles(directory=files), name="docs-assets")

    @app.get("/", include_in_schema=False)
    async def root(request: Request) -> Response:
        return RedirectResponse(request.scope.get("root_path", "").rstrip("/") + "/docs")

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
