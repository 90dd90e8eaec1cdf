"""`/docs` from files on this machine: no CDN, so it works without internet and nobody learns who reads it."""

from importlib import resources

import fastapi_swagger
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles


def install(app: FastAPI) -> None:
    """Serve Swagger UI for the app's OpenAPI document."""
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
