"""The report: figures as Markdown tables, goals and a plot."""

from pathlib import Path
from typing import Any

from benchmarks.plots import plot

Results = dict[str, Any]


def write(results: Results, folder: Path) -> str:
    """Write `results.md` and `results.svg`, and return the Markdown."""
    text = "\n\n".join(filter(None, (_about(results), *(_tables(results)), _goals(results)))) + "\n"
    (folder / "results.md").write_text(text)
    plot(results, folder / "results.svg")
    return text


def _about(results: Results) -> str:
    about = results["about"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        f"# Measured on {about['date']}",
        f"{about['machine']}; CPython {about['python']}; {versions}. "
        "Servers on one core, load and upstream on the other; "
        f"{about['rounds']} interleaved rounds; medians, with the first and third quartile in brackets. "
        "Each response was compared byte for byte with what the upstream sent.",
        "\n".join(f"- **{name}**: {what}" for name, what in about["contenders"].items()),
    ]
    lines += [f"- **{name}** is absent: {why}" for name, why in about["absent"].items()]
    return "\n\n".join(lines)


def _tables(results: Results) -> list[str]:
    return [
        _by_size(results, "latency", None, "Added latency, one caller, ms", direct="upstream alone, total"),
        _by_size(results, "load", "cpu_ms", "CPU per request, 8 callers, ms"),
        _by_size(results, "load", "per_second", "Requests per second, 8 callers"),
        _by_size(results, "load", "p50_ms", "Median response time, 8 callers, ms"),
        _by_size(results, "load", "stall_ms", "Longest health check with 8 callers, ms"),
        _by_size(results, "load", "health_p99_ms", "p99 of health checks with 8 callers, ms"),
        _openai(results),
        _memory(results),
        _growth_table(results, "size", "peak_mb", "Peak memory above idle by image size, 8 callers, MB"),
        _growth_table(results, "callers", "peak_mb", "Peak memory above idle by number of callers, 8 MB images, MB"),
        _growth_table(results, "callers", "p50_ms", "Median response time by number of callers, 8 MB images, ms"),
        _in_flight(results),
        _uploads(results),
        _start(results),
    ]


def _size(number: str) -> str:
    return f"{int(number) / 1e6:g} MB"


def _cell(figure: Any) -> str:
    if figure is None:
        return "–"
    if isinstance(figure, dict):
        return f"{_format(figure['median'])} ({_format(figure['low'])}–{_format(figure['high'])})"
    return _format(figure)


def _format(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [f"## {title}", "", "| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _names(results: Results) -> list[str]:
    return list(results["about"]["contenders"])


def _by_size(results: Results, experiment: str, figure: str | None, title: str, direct: str = "") -> str:
    if experiment not in results:
        return ""
    found = results[experiment]
    rows = []
    for name in [*_names(results), *(["direct"] if direct else [])]:
        cells = [found[size].get(name) for size in found]
        rows.append(
            [
                name if name != "direct" else direct,
                *(_cell(cell and (cell[figure] if figure else cell)) for cell in cells),
            ]
        )
    return _table(title, [_size(size) for size in found], rows)


def _memory(results: Results) -> str:
    if "memory" not in results:
        return ""
    found = results["memory"]
    rows = [
        [name]
        + [_format(found[count][name]["of_base64"]) for count in found]
        + [_format(found[count][name]["left_mb"]) for count in found]
        for name in _names(results)
    ]
    head = [f"{count} callers" for count in found] + [f"left after {count}, MB" for count in found]
    figures = "peak above idle per caller, as a multiple of the image's base64; memory above idle after a minute"
    return _table(f"Memory at 8 MB: {figures}", head, rows)


def _growth_table(results: Results, axis: str, key: str, title: str) -> str:
    if "growth" not in results:
        return ""
    found = results["growth"][axis]
    head = [_size(place) if axis == "size" else f"{place} callers" for place in found]
    rows = [
        [name, *(_cell(at[name][key] if name in at else None) for at in found.values())] for name in _names(results)
    ]
    return _table(title, head, rows)


def _in_flight(results: Results) -> str:
    if "in_flight" not in results:
        return ""
    rows = []
    for name, found in results["in_flight"].items():
        figures = (
            "callers",
            "answered",
            "refused",
            "most_in_flight",
            "seconds",
            "health_p99_ms",
            "stall_ms",
            "peak_mb_each",
        )
        rows.append(
            [name, *(f"{found[key]:,}" if isinstance(found[key], int) else _format(found[key]) for key in figures)]
        )
    head = [
        "callers",
        "answered in 60 s",
        "refused",
        "most in flight",
        "seconds",
        "health check p99, ms",
        "longest, ms",
        "MB per caller",
    ]
    return _table("Calls in flight: 1.5 MB images after 20 s", head, rows)


def _uploads(results: Results) -> str:
    if "uploads" not in results:
        return ""
    found = results["uploads"]
    rows = []
    for name in _names(results):
        row = [name]
        for count in found:
            figures = found[count].get(name)
            row += [_cell(figures and figures[key]) for key in ("cpu_ms", "ms", "stall_ms")]
        rows.append(row)
    head = [
        f"{count} file{'s' * (count != '1')}: {what}"
        for count in found
        for what in ("CPU per file, ms", "time, ms", "longest health check, ms")
    ]
    return _table("Uploads of 7 MB references", head, rows)


def _openai(results: Results) -> str:
    if "openai" not in results:
        return ""
    rows = [
        [name, _cell(figures["cpu_ms"]), _cell(figures["p50_ms"])]
        for name, figures in results["openai"].items()
        if "cpu_ms" in figures
    ]
    title = "OpenAI's Images API, 8 MB images, 8 in flight: per request"
    return _table(title, ["CPU, ms", "median response time, ms"], rows)


def _start(results: Results) -> str:
    if "start" not in results:
        return ""
    rows = [[name, _cell(found["seconds"]), _cell(found["idle_mb"])] for name, found in results["start"].items()]
    return _table("Start", ["until healthy, s", "idle, MB"], rows)


def _goals(results: Results) -> str:
    """Return the table of goals and measured values."""
    rows: list[list[str]] = []

    def row(what: str, found: float, goal: float) -> None:
        rows.append([what, f"{found:.2f}", f"{goal:.3g}", "yes" if found <= goal else "**no**"])

    if "load" in results:
        for size in ("8000000", "20000000"):
            at = results["load"][size]
            cpu = {name: figures["cpu_ms"]["median"] for name, figures in at.items()}
            stall = {name: figures["stall_ms"]["median"] for name, figures in at.items()}
            if {"service", "service-b64", "relay", "naive"} <= set(at):
                row(f"CPU at {_size(size)}, × relay", cpu["service"] / cpu["relay"], 1.35)
                row(f"CPU at {_size(size)} with b64, × relay", cpu["service-b64"] / cpu["relay"], 1.1)
                row(f"CPU at {_size(size)}, × naive", cpu["service"] / cpu["naive"], 0.2)
                row(f"longest stall at {_size(size)}, × naive", stall["service"] / stall["naive"], 1 / 30)
    if "memory" in results:
        for count in ("8", "32"):
            at = results["memory"][count]["service"]
            row(f"peak memory, {count} callers, × base64", at["of_base64"], 1.6)
            row(f"memory one minute after {count} callers, × base64", at["left_mb"] / 10.67, 2)
    if "in_flight" in results:
        at = results["in_flight"]["service"]
        row("callers of 1,000 without a response", at["callers"] - at["answered"], 0)
        row("p99 of health checks with 1,000 in flight, ms", at["health_p99_ms"], 50)
    if "uploads" in results:
        for count, at in results["uploads"].items():
            if {"service", "naive"} <= set(at):
                cpu = {name: figures["cpu_ms"]["median"] for name, figures in at.items()}
                row(f"CPU per file with {count} uploads, × naive", cpu["service"] / cpu["naive"], 0.2)
    if "start" in results:
        at = results["start"]["service"]
        row("start until healthy, s", at["seconds"]["median"], 1.2)
        row("idle, MB", at["idle_mb"]["median"], 110)
    if "openai" in results:
        at = results["openai"]
        row("CPU of /v1 at 8 MB, × native route with b64", at["v1_by_native"]["cpu"]["median"], 1.1)
        row("CPU of /v1 with n: 4, × n: 1", at["n_by_one"]["cpu"]["median"], 4.2)
        if "v1_by_litellm" in at:
            row("CPU of /v1 at 8 MB, × litellm", at["v1_by_litellm"]["cpu"]["median"], 1.0)
    if "latency" in results:
        added = {name: figures["median"] for name, figures in results["latency"]["1500000"].items()}
        for peer, share in (("litellm", 1 / 8), ("next", 1.0)):
            if peer in added:
                row(f"added latency at 1.5 MB, × {peer}", added["service"] / added[peer], share)
    return _table("Goals", ["measured", "at most", "reached"], rows) if rows else ""
