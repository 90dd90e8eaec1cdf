"""The caller's side of a request for an image: valid fields, and reference images that can be used."""

import mmap
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import zip_longest
from tempfile import SpooledTemporaryFile
from typing import Annotated, Self, cast

from fastapi import Depends, Form, Request, UploadFile

from app.api.http.dependencies import ReferencesDep
from app.api.http.forms import is_unused
from app.api.http.inline_images import ExtractingRequest
from app.api.http.negotiation import AcceptedFormats, AnswerWanted
from app.api.images.request import GenerationCreate, GenerationForm, GenerationOptions
from app.domain.errors import FieldError, InvalidRequest
from app.domain.generation import GenerationRequest, Reference
from app.lib.base64_json import Buffer
from app.service.generation.references import ReferenceValidator, Upload


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A valid request, and the kind of answer it wants."""

    request: GenerationRequest
    wanted: AcceptedFormats

    @classmethod
    def of(cls, body: GenerationOptions, references: tuple[Reference, ...], wanted: AcceptedFormats) -> Self:
        wanted = replace(wanted, with_url=body.response_format == "data_url")
        return cls(body.to_domain(references, wanted.required_image_types), wanted)


async def inline_references(
    body: GenerationCreate, request: Request, references: ReferenceValidator
) -> tuple[Reference, ...]:
    """The reference images inside a JSON body.

    Raises:
        InvalidRequest: one of them is no base64.
        TooLarge, UnsupportedImage: one of them cannot be used.
    """
    assert isinstance(request, ExtractingRequest)
    uploads: list[Upload] = []
    wrong: list[FieldError] = []
    for index, one in enumerate(body.reference_images):
        where, file = f"referenceImages[{index}]", request.file(one.url or one.data or "")
        if one.url is not None and not file.is_data_url:
            wrong.append(FieldError(where, "url must be a data URL; this service fetches nothing"))
        elif file.problem:
            wrong.append(FieldError(where, file.problem))
        uploads.append(Upload(file.data, where, one.role, one.name or None))
    if wrong:
        raise InvalidRequest(wrong)
    return await references.validate(uploads)


async def uploaded_references(form: GenerationForm, references: ReferenceValidator) -> tuple[Reference, ...]:
    """The files of a form.

    Raises:
        TooLarge, UnsupportedImage: one of them cannot be used.
    """
    uploads = [
        Upload(_contents(file), f"images[{index}]", role, name or None)
        for index, (file, role, name) in enumerate(zip_longest(form.images, form.roles, form.names))
        if not is_unused(file)
    ]
    return await references.validate(uploads)


def _contents(file: UploadFile) -> Buffer:
    """A large file stays on the disk that the form parser has put it on, a small one in the memory it is in."""
    inside = cast("SpooledTemporaryFile[bytes]", file.file)._file  # documented; reading would make a copy
    if isinstance(inside, BytesIO):
        return inside.getvalue()
    return mmap.mmap(inside.fileno(), 0, access=mmap.ACCESS_READ)


async def _from_json(
    body: GenerationCreate, request: Request, wanted: AnswerWanted, references: ReferencesDep
) -> ParsedRequest:
    return ParsedRequest.of(body, await inline_references(body, request, references), wanted)


async def _from_form(
    form: Annotated[GenerationForm, Form(media_type="multipart/form-data")],
    wanted: AnswerWanted,
    references: ReferencesDep,
) -> ParsedRequest:
    return ParsedRequest.of(form, await uploaded_references(form, references), wanted)


JsonRequest = Annotated[ParsedRequest, Depends(_from_json)]
FormRequest = Annotated[ParsedRequest, Depends(_from_form)]
