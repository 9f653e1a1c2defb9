"""PNG plots: the ratios of a run's summary, and time against size, one picture per op and dtype."""

import importlib.util
import re
from collections import defaultdict
from pathlib import Path

from bench import summary


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def panels(run: dict) -> dict[str, dict[str, list[tuple[int, dict]]]]:
    """title -> implementation -> (size, row), for the cases that name a size."""
    grouped: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for case in run["cases"]:
        if not case["size"]:
            continue
        fixed = ",".join(f"{k}={v}" for k, v in case["dims"].items() if k != case["size"])
        title = " ".join(part for part in (case["op"], fixed, case["dtype"]) if part)
        for row in case["rows"]:
            if "median" in row:
                grouped[f"{title} over {case['size']}"][row["impl"]].append(
                    (case["dims"][case["size"]], row)
                )
    # One point is no curve.
    return {
        title: lines
        for title, lines in grouped.items()
        if any(len(points) > 1 for points in lines.values())
    }


def ratios(run: dict, folder: Path) -> list[Path]:
    """One bar per line of the summary: how many times as fast as what one would run instead."""
    from matplotlib import pyplot

    lines = [found for case in summary.largest(run["cases"]) if (found := summary.line(case))]
    lines = [found for found in lines if found.instead]
    if not lines:
        return []
    names = [f"{found.what}, {found.dtype}\nover {found.instead}" for found in lines]
    names = [name.replace("`", "") for name in names]
    height = 0.8 + 0.42 * len(lines)
    figure, axes = pyplot.subplots(figsize=(9.0, height), layout="constrained")
    bars = axes.barh(names, [found.ratio - 1.0 for found in lines], left=1.0)
    axes.bar_label(bars, [f" {summary.three_digits(found.ratio)}x" for found in lines], fontsize=7)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="time of the other over thrifty's")
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    path = folder / "summary.png"
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return [path]


def plot(run: dict, folder: Path) -> list[Path]:
    """Writes the plots; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = ratios(run, folder)
    for title, lines in panels(run).items():
        figure, axes = pyplot.subplots(figsize=(6.0, 4.2), layout="constrained")
        for impl, points in lines.items():
            points.sort(key=lambda point: point[0])
            sizes = [size for size, _ in points]
            middle = [1e3 * row["median"] for _, row in points]
            low = [1e3 * row["p20"] for _, row in points]
            high = [1e3 * row["p80"] for _, row in points]
            (line,) = axes.plot(sizes, middle, marker="o", markersize=3, label=impl)
            axes.fill_between(sizes, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(xscale="log", yscale="log", title=title.rsplit(" over ", 1)[0])
        axes.set(xlabel=title.rsplit(" over ", 1)[1], ylabel="median of one call, ms")
        axes.set_xticks(sorted({size for points in lines.values() for size, _ in points}))
        axes.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axes.get_xaxis().set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.grid(which="major", alpha=0.3)
        axes.legend()
        path = folder / (re.sub(r"[^A-Za-z0-9.=-]+", "_", title) + ".png")
        figure.savefig(path, dpi=150)
        pyplot.close(figure)
        written.append(path)
    return written
