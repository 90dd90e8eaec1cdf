"""The character encodings that the text of a form can have."""

CODECS = {
    "utf8": "utf-8-sig",  # removes a byte order mark
    "iso88591": "cp1252",
    "latin1": "cp1252",
    "windows1252": "cp1252",
    "cp1252": "cp1252",
    "gb18030": "gb18030",
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "cp936": "gb18030",
    "euccn": "gb18030",
    "big5": "cp950",
    "cp950": "cp950",
    "big5hkscs": "big5hkscs",
    "shiftjis": "cp932",
    "sjis": "cp932",
    "windows31j": "cp932",
    "cp932": "cp932",
    "euckr": "cp949",
    "ksc56011987": "cp949",
    "windows949": "cp949",
    "cp949": "cp949",
}
"""Python's codecs for the charsets that a form can declare. Names are in lower case without punctuation.

As in browsers (https://encoding.spec.whatwg.org/#names-and-labels), ISO-8859-1 is read as Windows-1252, and East Asian
charsets are read as their larger Windows versions. No other codec is used: some of Python's take quadratic
time.
"""

UTF_8 = CODECS["utf8"]


def declared_codec(options: dict[bytes, bytes], default: str) -> str:
    """Return the codec for the parameter `charset` of a media type; `default` without it, or for an unknown charset."""
    return CODECS.get(normalized_label(options.get(b"charset", b"")), default)


def normalized_label(charset: bytes) -> str:
    return "".join(filter(str.isalnum, charset[:40].decode("latin-1").lower()))
