"""The images of an edit, from JSON or from a form.

Clients name the files of a form `image`, `image[]`, `image[0]` or repeat `image`; their types and names are ignored.
"""

import re
from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from app.api.http.forms import is_unused
from app.api.http.generation_route import ExtractingRequest
from app.api.http.inline_images import InlineImage
from app.api.images.references import file_contents
from app.api.openai.request import ImageEditCreate, ImageOptions
from app.domain.errors import FieldError, InvalidRequest
from app.service.generation.references import Upload

MAX_IMAGES = 16
"""The most images of an edit in OpenAI's API. Models may take fewer."""

_IMAGE_FIELD = re.compile(r"images?(\[\d{0,4}\])?")
_MASK_FIELD = re.compile(r"mask(\[\d{0,4}\])?")

_NOT_AN_IMAGE = "must be a data URL; this service fetches nothing. Send the file itself, or a data URL of it"


def inline_uploads(body: ImageEditCreate, request: Request) -> list[Upload]:
    """Return the images of a JSON body.

    Raises:
        InvalidRequest: an image is not a data URL of base64.
    """
    assert isinstance(request, ExtractingRequest)
    return _uploads([(f"images[{index}]", request.inline_image(one.url)) for index, one in enumerate(body.images)])


def form_options(form: FormData) -> ImageOptions:
    """Return the options of a form.

    Raises:
        InvalidRequest: a field has several values.
        RequestValidationError: a field is invalid or unknown.
    """
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if _IMAGE_FIELD.fullmatch(name):
            continue
        field = "mask" if _MASK_FIELD.fullmatch(name) else name
        if fields.setdefault(field, value) != value and isinstance(value, str):
            raise InvalidRequest([FieldError(field[:200], "is there more than once, with different values")])
    try:
        return ImageOptions.model_validate(fields)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(found) from None


def form_uploads(form: FormData) -> list[Upload]:
    """Return the images of a form: files, or text that is a data URL.

    Raises:
        InvalidRequest: there is no image, there are too many, or one is text of another kind.
    """
    values = list(_image_values(form))
    if not values:
        raise InvalidRequest([FieldError("image", "is required: send the image as a file", "missing")])
    if len(values) > MAX_IMAGES:
        raise InvalidRequest([FieldError("image", f"there may be {MAX_IMAGES} images at most, not {len(values)}")])
    inline = [(name, InlineImage.of(value)) for name, value in values if isinstance(value, str)]
    files = [Upload(file_contents(file), name) for name, file in values if isinstance(file, UploadFile)]
    return [*files, *_uploads(inline)]


def _image_values(form: FormData) -> Iterator[tuple[str, str | UploadFile]]:
    for name, value in form.multi_items():
        if _IMAGE_FIELD.fullmatch(name) and not (isinstance(value, UploadFile) and is_unused(value)):
            yield name, value


def _uploads(images: list[tuple[str, InlineImage]]) -> list[Upload]:
    problems = [(name, image.problem if image.is_data_url else _NOT_AN_IMAGE) for name, image in images]
    errors = [FieldError(name, problem) for name, problem in problems if problem]
    if errors:
        raise InvalidRequest(errors)
    return [Upload(image.data, name) for name, image in images]
