"""The figures as a plot."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "benchmarks"  # the same figures give the same file
mpl.rcParams["svg.fonttype"] = "none"

from matplotlib import pyplot as plt  # noqa: E402 - the backend must be set first
from matplotlib.axes import Axes  # noqa: E402

Results = dict[str, Any]

COLOURS = {
    "service": "#0b7a75",
    "service-b64": "#7fc8c2",
    "relay": "#8a8a8a",
    "naive": "#d1495b",
    "next": "#5b5f97",
    "litellm": "#edae49",
}


def plot(results: Results, path: Path) -> None:
    """Write all figures as one SVG file."""
    figure, axes = plt.subplots(2, 4, figsize=(16, 7.4), layout="constrained")
    panels = axes.flatten()
    _plot_by_size(panels[0], results, "latency", None, "added latency, one caller", "ms")
    _plot_by_size(panels[1], results, "load", "cpu_ms", "CPU per request, 8 callers", "ms")
    _plot_by_size(panels[2], results, "load", "stall_ms", "longest health check, 8 callers", "ms")
    _plot_by_size(panels[3], results, "load", "per_second", "requests per second, 8 callers", "")
    _plot_growth(panels[4], results, "size", "peak_mb", "peak memory above idle, 8 callers", "MB")
    _plot_growth(panels[5], results, "callers", "peak_mb", "peak memory above idle, 8 MB images", "MB")
    _plot_growth(panels[6], results, "callers", "p50_ms", "median response time, 8 MB images", "ms")
    _plot_in_flight(panels[7], results)
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _plot_by_size(panel: Axes, results: Results, experiment: str, key: str | None, title: str, unit: str) -> None:
    panel.set_title(title, fontsize=10.5)
    found = results.get(experiment, {})
    for name in results["about"]["contenders"]:
        points = [(int(size) / 1e6, at[name][key] if key else at[name]) for size, at in found.items() if name in at]
        if points:
            sizes, figures = zip(*points, strict=True)
            middle = [max(one["median"], 0.05) for one in figures]
            panel.plot(sizes, middle, "o-", color=COLOURS[name], label=name, markersize=4)
            low, high = [max(one["low"], 0.05) for one in figures], [max(one["high"], 0.05) for one in figures]
            panel.fill_between(sizes, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
    _use_log_axes(panel, "image, MB", unit)


def _plot_growth(panel: Axes, results: Results, axis: str, key: str, title: str, unit: str) -> None:
    panel.set_title(title, fontsize=10.5)
    found = results.get("growth", {}).get(axis, {})
    scale = 1e6 if axis == "size" else 1
    for name in results["about"]["contenders"]:
        points = [(int(place) / scale, max(at[name][key], 0.1)) for place, at in found.items() if name in at]
        if points:
            panel.plot(*zip(*points, strict=True), "o-", color=COLOURS[name], markersize=4)
    _use_log_axes(panel, "image, MB" if axis == "size" else "callers", unit)


def _plot_in_flight(panel: Axes, results: Results) -> None:
    panel.set_title("images of 20 s, 1,000 callers: responses in 60 s", fontsize=10.5)
    found = results.get("in_flight", {})
    names = list(found)
    answered = [found[name]["answered"] for name in names]
    panel.bar(names, answered, color=[COLOURS[name] for name in names])
    for place, count in enumerate(answered):
        panel.annotate(f"{count:,}", (place, count), ha="center", va="bottom")
    panel.tick_params(axis="x", rotation=30)
    panel.spines[["top", "right"]].set_visible(False)


def _use_log_axes(panel: Axes, x_label: str, unit: str) -> None:
    if panel.lines:
        panel.set_xscale("log")
        panel.set_yscale("log")
        lines: list[Any] = list(panel.lines)
        ticks = sorted({float(x) for line in lines for x in line.get_xdata()})
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_xlabel(x_label)
    panel.set_ylabel(unit)
    panel.grid(axis="y", color="#e4e4e4")
    panel.spines[["top", "right"]].set_visible(False)
