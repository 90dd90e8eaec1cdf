"""Reference images of a request, from JSON or from a form."""

import mmap
from io import BytesIO
from itertools import zip_longest
from tempfile import SpooledTemporaryFile
from typing import cast

from fastapi import Request
from starlette.datastructures import UploadFile

from app.api.http.forms import is_unused
from app.api.http.generation_route import ExtractingRequest
from app.api.images.request import GenerationCreate, GenerationForm
from app.domain.errors import FieldError, InvalidRequest
from app.domain.generation import Reference
from app.lib.base64_json import Buffer
from app.service.generation.references import ReferenceValidator, Upload


async def inline_references(
    body: GenerationCreate, request: Request, validator: ReferenceValidator
) -> tuple[Reference, ...]:
    """Return the reference images inside a JSON body.

    Raises:
        InvalidRequest: an image is not base64.
        TooLarge, UnsupportedImage: an image cannot be used.
    """
    assert isinstance(request, ExtractingRequest)
    uploads: list[Upload] = []
    errors: list[FieldError] = []
    for index, reference in enumerate(body.reference_images):
        field, image = f"referenceImages[{index}]", request.inline_image(reference.url or reference.data or "")
        if reference.url is not None and not image.is_data_url:
            errors.append(FieldError(field, "url must be a data URL; this service fetches nothing"))
        elif image.problem:
            errors.append(FieldError(field, image.problem))
        uploads.append(Upload(image.data, field, reference.role, reference.name or None))
    if errors:
        raise InvalidRequest(errors)
    return await validator.validate(uploads)


async def uploaded_references(form: GenerationForm, validator: ReferenceValidator) -> tuple[Reference, ...]:
    """Return the files of a form.

    Raises:
        TooLarge, UnsupportedImage: a file cannot be used.
    """
    uploads = [
        Upload(file_contents(file), f"images[{index}]", role, name or None)
        for index, (file, role, name) in enumerate(zip_longest(form.images, form.roles, form.names))
        if not is_unused(file)
    ]
    return await validator.validate(uploads)


def file_contents(file: UploadFile) -> Buffer:
    """Return the bytes of a file without reading it: a large file is mapped from disk."""
    inside = cast("SpooledTemporaryFile[bytes]", file.file)._file  # documented; `read` would make a copy
    if isinstance(inside, BytesIO):
        return inside.getvalue()
    return mmap.mmap(inside.fileno(), 0, access=mmap.ACCESS_READ)
