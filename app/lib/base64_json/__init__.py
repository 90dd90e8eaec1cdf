"""Keeping images out of Python's JSON, on both ways. README.md beside this file explains it.

`Lifter` takes base64 out of a JSON text as it arrives and leaves tokens; `Decoder` turns it into `Content`, a file's
bytes in pieces; `Encoded` is the way back; `Tokens` names what has its place in a JSON text and is not in it.
"""

from app.lib.base64_json.codec import Decoder, Encoded, decode
from app.lib.base64_json.content import Content, Data, InMemory, InPieces
from app.lib.base64_json.extractor import Lifter, TooManyMembers
from app.lib.base64_json.placeholders import Tokens

__all__ = [
    "Content", "Data", "Decoder", "Encoded", "InMemory", "InPieces", "Lifter", "Tokens", "TooManyMembers", "decode",
]  # fmt: skip
