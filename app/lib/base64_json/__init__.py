"""Keeps images out of Python's JSON, in both directions. README.md beside this file explains it.

`Base64Extractor` takes base64 strings out of a JSON text while it arrives and leaves placeholders. `Base64Decoder`
decodes them into `Content`, the bytes of a file in pieces. `Base64Encoded` encodes content while it is sent.
`Placeholders` makes the short strings that stand for content in a JSON text.
"""

from app.lib.base64_json.codec import Base64Decoder, Base64Encoded, decode
from app.lib.base64_json.content import Buffer, BufferContent, Content, SegmentedContent
from app.lib.base64_json.extractor import Base64Extractor, TooManyMembers
from app.lib.base64_json.placeholders import Placeholders

__all__ = [
    "Base64Decoder",
    "Base64Encoded",
    "Base64Extractor",
    "Buffer",
    "BufferContent",
    "Content",
    "Placeholders",
    "SegmentedContent",
    "TooManyMembers",
    "decode",
]
