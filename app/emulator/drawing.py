"""Draw the emulator's images: a landscape whose colours depend on the prompt, with the prompt written on it."""

import colorsys
import functools
import hashlib
import io
import math
import random
import textwrap

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps, UnidentifiedImageError

_SKETCH = 960  # pixels of the long side of the drawing before it is enlarged
_CACHED_INSETS_BYTES = 300_000  # with more bytes of insets an image is not cached, because the cache would keep them


def draw(
    prompt: str,
    size: tuple[int, int],
    references: list[bytes],
    format_: str,
    *,
    turn: int = 1,
    previous: bytes | None = None,
    note: str = "",
) -> bytes:
    """Return an encoded image of exactly `size`. Equal arguments give equal images.

    Args:
        prompt: determines the colours, and is written on the image.
        size: width and height in pixels.
        references: shown as small insets. An image that cannot be decoded is shown as an empty frame.
        format_: `JPEG` or `PNG`.
        turn: number of the turn in the conversation.
        previous: the image of the turn before, shown as an inset too.
        note: one more word in the corner.
    """
    insets = (*references, *([previous] if previous else []))
    render = _render_cached if sum(map(len, insets)) < _CACHED_INSETS_BYTES else _render
    return render(prompt, size, insets, format_, turn, note)


def _render(prompt: str, size: tuple[int, int], insets: tuple[bytes, ...], format_: str, turn: int, note: str) -> bytes:
    seed = hashlib.sha256(f"{prompt}|{turn}".encode()).digest()
    scale = min(1.0, _SKETCH / max(size))
    sketch = _landscape((max(8, round(size[0] * scale)), max(8, round(size[1] * scale))), random.Random(seed))
    canvas = sketch.resize(size, Image.Resampling.BICUBIC)
    _draw_insets(canvas, insets)
    _draw_text(canvas, prompt, " · ".join(filter(None, ["EMULATOR", f"turn {turn}" if turn > 1 else "", note])))
    out = io.BytesIO()
    canvas.save(out, format_, quality=92) if format_ == "JPEG" else canvas.save(out, format_, compress_level=3)
    return out.getvalue()


# Demos and tests often repeat a prompt, and drawing an image takes about 80 ms of CPU time.
_render_cached = functools.lru_cache(32)(_render)


def _landscape(size: tuple[int, int], rng: random.Random) -> Image.Image:
    width, height = size
    hue = rng.random()
    high, low = _colour(hue, 0.55, 0.62), _colour(hue + 0.09, 0.30, 0.97)
    sky = Image.linear_gradient("L").resize(size)
    canvas = ImageOps.colorize(sky, high, low)
    sun = Image.new("L", size, 0)
    x, y, radius = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.42) * height, 0.11 * min(size)
    ImageDraw.Draw(sun).ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    small = sun.reduce(4).filter(ImageFilter.GaussianBlur(radius / 8))  # a blur of a small image takes less time
    canvas.paste((255, 247, 222), mask=small.resize(size))
    canvas.paste((255, 251, 238), mask=sun)
    layers = 5
    for layer in range(layers):
        depth = (layer + 1) / layers
        base = height * (0.42 + 0.46 * depth)
        waves = [(rng.uniform(0.6, 3.2), rng.uniform(0, math.tau), rng.uniform(0.2, 1)) for _ in range(4)]
        crest = [
            (px, base + 0.055 * height * sum(a * math.sin(f * math.tau * px / width + p) for f, p, a in waves) / 1.6)
            for px in range(0, width + 8, 4)
        ]
        colour = _colour(hue + 0.03 * layer, 0.30 + 0.35 * depth, 0.80 - 0.58 * depth)
        ImageDraw.Draw(canvas).polygon([(0, height), *crest, (width, height)], fill=colour)
    return canvas


def _draw_insets(canvas: Image.Image, images: tuple[bytes, ...]) -> None:
    if not images:
        return
    side = min(canvas.height // 5, canvas.width // (len(images) + 1))
    gap = max(2, side // 12)
    for index, data in enumerate(images):
        box = (gap + index * (side + gap), gap)
        frame = Image.new("RGB", (side, side), "white")
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.draft("RGB", (side, side))
                thumbnail = ImageOps.fit(image.convert("RGB"), (max(1, side - gap), max(1, side - gap)))
            frame.paste(thumbnail, (gap // 2, gap // 2))
        except (UnidentifiedImageError, OSError, ValueError):
            ImageDraw.Draw(frame).text(
                (gap, gap), "reference", fill="black", font=ImageFont.load_default(max(8, side // 6))
            )
        canvas.paste(frame, box)


def _draw_text(canvas: Image.Image, prompt: str, corner: str) -> None:
    width, height = canvas.size
    points = max(9, min(width // 26, height // 12))
    font = ImageFont.load_default(points)
    per_line = max(8, int(width * 0.88 / (points * 0.52)))
    lines = textwrap.wrap(" ".join(drawable_text(prompt, font).split()), per_line)[
        : max(1, int(height * 0.3 / (points * 1.3)))
    ]
    pen = ImageDraw.Draw(canvas)
    edge = max(1, points // 14)
    for number, line in enumerate(reversed(lines)):
        at = (width * 0.05, height - points * (1.6 + 1.3 * number))
        pen.text(at, line, font=font, fill="white", stroke_width=edge, stroke_fill=(0, 0, 0))
    at = (width - points * 0.6, points * 0.5)
    pen.text(at, corner, font=font, anchor="ra", fill="white", stroke_width=edge, stroke_fill=(0, 0, 0))


def drawable_text(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return `text` without characters that `font` would draw as boxes, and with a note of their number."""
    box = bytes(font.getmask("\U0010ffff"))
    missing = {one for one in set(text) if not one.isspace() and bytes(font.getmask(one)) == box}
    if not missing:
        return text
    count = sum(one in missing for one in text)
    return "".join(one for one in text if one not in missing) + f" [{count} characters that this font does not have]"


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
