"""Names of formats that Gemini does not accept, for error messages."""

import re

from app.lib.base64_json import Buffer

_HEADER_BYTES = 1024

_SIGNATURES = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"GIF8[79]a", "GIF"),
        (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", "BMP"),
        (rb"\x00\x00\x00\x0cJXL \r\n\x87\n|\xff\x0a", "JPEG XL"),
        (rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG 2000"),
        (rb"II\xbc", "JPEG XR"),
        (rb"....ftyp(?:avi[fso]|(?:mif1|mif2|msf1).{4}(?:.{4}){0,16}?avi[fs])", "AVIF"),
        (rb"....ftypcrx |IIU\x00|IIR[OS]|MMOR|FUJIFILMCCD-RAW", "a camera's raw file"),
        (rb"....ftypM4[ABP] ", "an audio file (MPEG-4)"),
        (rb"....(?:ftypqt  |moov|mdat|wide|pnot)", "a video (QuickTime, MOV)"),
        (rb"....ftyp(?:mp4|isom|iso\d|M4V|avc1|dash|3g|mmp4|f4v|XAVC|MSNV)", "a video (MP4)"),
        (rb"....ftyp", "a video, or another file in an MPEG-4 container"),
        (rb"II[*+]\x00|MM\x00[*+]", "TIFF, or a camera's raw file"),
        (rb"\x00\x00[\x01\x02]\x00[^\x00]|icns", "an icon file"),
        (rb"8BPS", "a Photoshop file (PSD)"),
        (rb"gimp xcf", "a GIMP file (XCF)"),
        (rb"v/1\x01", "OpenEXR"),
        (rb"#\?(?:RADIANCE|RGBE)", "Radiance HDR"),
        (rb"DDS ", "DDS"),
        (rb"qoif", "QOI"),
        (rb"P[1-7]\s", "PNM"),
        (rb"RIFF....AVI ", "a video (AVI)"),
        (rb"RIFF....WAVE|ID3|fLaC|OggS|\xff[\xfb\xf3\xf2]", "an audio file"),
        (rb"\x1aE\xdf\xa3", "a video (WebM or Matroska)"),
        (rb"\x00\x00\x01[\xb3\xba]", "a video (MPEG)"),
        (rb".{0,900}?%PDF-", "PDF"),
        (rb"%!PS", "PostScript"),
        (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", "a ZIP archive, or an office document"),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document"),
        (rb"\x1f\x8b|\xfd7zXZ\x00|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|BZh\d|\x28\xb5\x2f\xfd", "a compressed file"),
        (rb"\s*+(?:iVBORw0KGgo|/9j/|UklGR|data:)", "base64 text instead of the file itself"),
    )
)


def describe(data: Buffer) -> str:
    """Return what the file is, to complete the sentence "this file cannot be used: …"."""
    start = bytes(data[:_HEADER_BYTES])
    if not start:
        return "it is empty"
    for signature, name in _SIGNATURES:
        if signature.match(start):
            return f"it is {name}"
    markup = _markup(start)
    return f"it is {markup}" if markup else "its first bytes match no supported format"


def _markup(start: bytes) -> str | None:
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = start.decode(encoding, "replace").lstrip().lower()
    if not text.startswith("<"):
        return "JSON" if re.match(r'[{\[]\s*["{\[]', text) else None
    if "<!doctype html" in text or "<html" in text:
        return "HTML"
    if "<svg" in text:
        return "SVG"
    return "XML" if text.startswith("<?xml") else "HTML" if re.match(r"<(?:head|body|script|div|p)\b", text) else None
