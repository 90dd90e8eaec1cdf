"""Compare Pillow and pyvips at what the service does: convert a photograph of 16 megapixels. Linux only.

`python -m benchmarks.transcoding`, with `pip install pyvips pyvips-binary` before it. Each conversion runs in a process
of its own. `peak` is the largest memory of the process above that of the loaded library, with the input. `held` is the
longest time for which another Python thread could not run. `stop` is the time from a request to stop
until the thread is free again: the longest of six, which are made at different moments of the conversion.
"""

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter

_CASES = [("jpeg", "png"), ("jpeg", "webp"), ("png", "jpeg"), ("jpeg", "jpeg")]
_QUALITY = 90
_STOPPED_AT = (0.1, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Parts of the whole time."""


class Stopped(Exception):
    pass


class _Sink(io.BytesIO):
    """A file that ends the conversion at the next write once `stopped` is set."""

    stopped = False

    def write(self, piece: object) -> int:
        if self.stopped:
            raise Stopped
        return super().write(piece)  # type: ignore[arg-type]


def photograph(width: int, height: int) -> Image.Image:
    """Return a picture that compresses like a photograph: soft shapes with grain."""
    shapes = Image.effect_noise((width // 64, height // 64), 120).resize((width, height), Image.Resampling.BICUBIC)
    fine = Image.effect_noise((width // 4, height // 4), 60).resize((width, height), Image.Resampling.BICUBIC)
    grain = Image.effect_noise((width, height), 14).filter(ImageFilter.GaussianBlur(0.7))
    bands = [Image.blend(Image.blend(shapes, fine, 0.3), grain, mix) for mix in (0.2, 0.3, 0.4)]
    return Image.merge("RGB", bands)


def _pillow(data: bytes, target: str) -> tuple[Callable[[], bytes], Callable[[], object]]:
    sink = _Sink()
    options = {"png": {"compress_level": 3}, "webp": {"quality": _QUALITY, "method": 2}, "jpeg": {"quality": _QUALITY}}

    def convert() -> bytes:
        with Image.open(io.BytesIO(data)) as image:
            image.save(sink, target, **options[target])
        return sink.getvalue()

    return convert, lambda: setattr(sink, "stopped", True)


def _pyvips(data: bytes, target: str) -> tuple[Callable[[], bytes], Callable[[], object]]:
    import pyvips

    options: dict[str, dict[str, Any]] = {  # as in the service
        "png": {"compression": 3, "filter": 0x80},
        "webp": {"Q": _QUALITY, "effort": 2},
        "jpeg": {"Q": _QUALITY},
    }
    image = pyvips.Image.new_from_buffer(data, "", access="sequential")
    image.set_progress(True)  # otherwise the encoder does not look at the kill flag

    def convert() -> bytes:
        saved: bytes = image.write_to_buffer(f".{target}", **options[target])
        return saved

    return convert, lambda: image.set_kill(True)


def _memory(name: str) -> int:
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return int(line.split()[1]) // 1024


def _run(library: str, source: str, target: str, stop_after: float) -> dict[str, float]:
    data = Path(source).read_bytes()
    if library == "pyvips":
        import pyvips

        pyvips.Image.black(8, 8).write_to_buffer(".png")
    convert, stop = {"pillow": _pillow, "pyvips": _pyvips}[library](data, target)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before = _memory("VmRSS")
    result: dict[str, float] = {}

    def work() -> None:
        try:
            result["bytes"] = len(convert())
        except Exception:
            result["bytes"] = 0

    thread = threading.Thread(target=work)
    started = latest = time.perf_counter()
    stopped: float | None = None
    held = 0.0
    thread.start()
    while thread.is_alive():
        time.sleep(0.0005)
        now = time.perf_counter()
        held, latest = max(held, now - latest), now
        if stop_after and stopped is None and now - started > stop_after:
            stop()
            stopped = now
    ended = time.perf_counter()
    return result | {
        "seconds": ended - started,
        "held_ms": 1000 * held,
        "peak_mb": _memory("VmHWM") - before,
        "left_mb": _memory("VmRSS") - before,
        "stop_ms": 1000 * (ended - stopped) if stopped else 0,
    }


def _in_process(*arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.transcoding", *map(str, arguments)]
    measured: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return measured


def main(folder: Path) -> None:
    """Write the table to standard output."""
    picture = photograph(4096, 4096)
    picture.save(folder / "photo.jpeg", quality=92)
    picture.save(folder / "photo.png", compress_level=1)
    del picture
    print("| library | conversion | seconds | peak | left | held | stop | output |\n|---|---|---|---|---|---|---|---|")
    for source, target in _CASES:
        for library in ("pillow", "pyvips"):
            path = folder / f"photo.{source}"
            whole = _in_process(library, path, target, 0)
            stopped = (_in_process(library, path, target, whole["seconds"] * part) for part in _STOPPED_AT)
            stop_ms = max(one["stop_ms"] for one in stopped)
            print(
                f"| {library} | {source} → {target} | {whole['seconds']:.2f} | {whole['peak_mb']:.0f} MB "
                f"| {whole['left_mb']:.0f} MB | {whole['held_ms']:.0f} ms | {stop_ms:.0f} ms "
                f"| {whole['bytes'] / 1e6:.1f} MB |"
            )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        library, source, target, stop_after = sys.argv[1:]
        print(json.dumps(_run(library, source, target, float(stop_after))))
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
