"""``python -m Testing.Benchmarks speed-report RESULT.json``: stored rows as a Markdown table and as one picture.

With ``--readme`` the table is written between the marks in that file, with ``--plot`` the picture is drawn, with
``--add`` rows of further results are put into the first one, in the place of older ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from SemiSupSegLib.files import read_json, write_json_atomically

from .command import AREAS, key
from .rows import Row

BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
_SCALING = "scaling"


def main(arguments: Sequence[str]) -> int:
    """Print the table, write it into a file, draw the picture."""
    parser = argparse.ArgumentParser(prog="python -m Testing.Benchmarks speed-report", description=__doc__)
    parser.add_argument("result", type=Path, help="what the command speed has stored")
    parser.add_argument("--readme", type=Path, help="Markdown file with the marks")
    parser.add_argument("--plot", type=Path, help="picture: all ratios, and what grows with what")
    parser.add_argument(
        "--add", type=Path, nargs="+", default=[], metavar="MORE.json", help="put their rows into RESULT"
    )
    options = parser.parse_args(arguments)
    report = read_json(options.result, "a report of speeds")
    for path in options.add:
        report = merged(report, read_json(path, "a report of speeds"))
        write_json_atomically(options.result, report)
    print(section(report))
    if options.readme:
        text = options.readme.read_text(encoding="utf-8")
        options.readme.write_text(updated(text, report), encoding="utf-8", newline="\n")
    if options.plot:
        plot(report, options.plot)
    return 0


def merged(report: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    """A report with the figures of a newer one, area by area; rows that failed or weren't measured change nothing."""
    unlike = [each for each in ("device", "processor", "cores", "threads") if report.get(each) != newer.get(each)]
    if unlike:
        raise SystemExit(f"The results were measured with another {' and another '.join(unlike)}.")
    found = {key(row): row for row in newer["rows"] if row["ratio"] is not None}
    rows = [found.pop(key(row), row) for row in report["rows"]]
    rows = sorted([*rows, *found.values()], key=lambda row: list(AREAS).index(row["area"]))
    return {**report, "date": newer["date"], "versions": newer["versions"], "rows": rows}


def updated(text: str, report: Mapping[str, Any]) -> str:
    """A Markdown text with the report between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{section(report)}\n\n{END}{rest.split(END)[1]}"


def section(report: Mapping[str, Any]) -> str:
    """Where and when it was measured, and the table of all comparisons."""
    lines = [
        f"{report['device']}, {report['threads']} of {report['cores']} cores, {report['date']}; "
        f"torch {report['versions'].get('torch', '–')}, size of the inputs: {report['size']}.",
        "",
        "| work | against | ours | theirs | ratio | aim | results equal |",
        "|---|---|---|---|---|---|---|",
    ]
    for stored in report["rows"]:
        if stored["area"] != _SCALING:
            lines.append(_line(row_of(stored), stored.get("size", report["size"]), report["size"]))
    return "\n".join(lines)


def row_of(stored: Mapping[str, Any]) -> Row:
    """A stored row."""
    return Row(**{key: value for key, value in stored.items() if key in Row.__dataclass_fields__})


def _line(row: Row, size: str, usual_size: str) -> str:
    ratio = "–" if row.ratio is None else _digits(row.ratio)
    aims = [] if row.aim is None else [f"{row.aim:.3g}"]
    aims += [] if row.limit is None else [f"under {_cost(row.limit, row.unit)}"]
    equal = "failed" if row.error else {None: "–", True: "yes", False: "**no**"}[row.equal]
    if row.reaches_aim:
        ratio = f"**{ratio}**"
    name = row.name if size == usual_size else f"{row.name} ({size})"
    cells = (name, row.peer, _cost(row.ours, row.unit), _cost(row.theirs, row.unit), ratio, ", ".join(aims), equal)
    return f"| {' | '.join(cells)} |"


def _cost(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "ms" and value >= 1000:
        value, unit = value / 1000, "s"
    return f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def plot(report: Mapping[str, Any], path: Path) -> None:
    """On the left all ratios with their aims, on the right a curve for everything that was made larger."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    compared = [row_of(each) for each in report["rows"] if each["area"] != _SCALING]
    curves = [each["values"] for each in report["rows"] if each["area"] == _SCALING and each["values"]]
    against = list(dict.fromkeys(curve["against"] for curve in curves))
    panels = max(1, len(against))
    figure = pyplot.figure(figsize=(12, max(4.5, 0.26 * len(compared))), layout="constrained")
    grid = figure.add_gridspec((panels + 1) // 2, 4, width_ratios=(2.2, 0.1, 1, 1))
    _plot_ratios(figure.add_subplot(grid[:, 0]), [row for row in compared if row.ratio])
    for index, what in enumerate(against):
        axes = figure.add_subplot(grid[index // 2, 2 + index % 2])
        _plot_growth(axes, what, [curve for curve in curves if curve["against"] == what])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _plot_ratios(axes: Any, rows: Sequence[Row]) -> None:
    places = range(len(rows) - 1, -1, -1)
    axes.barh(places, [row.ratio - 1 for row in rows], left=1, color="#4477aa", height=0.7)
    aimed = [(row.aim, place) for row, place in zip(rows, places, strict=True) if row.aim is not None]
    if aimed:
        axes.plot(*zip(*aimed, strict=True), "|", color="black", markersize=9, label="aim")
        axes.legend(frameon=False, loc="lower right")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="times less than the other (right of 1: ours is better)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(list(places), [f"{row.name}\n{row.peer}" for row in rows], fontsize=6)
    axes.set_ylim(-1, len(rows))
    axes.spines[["top", "right"]].set_visible(False)


def _plot_growth(axes: Any, against: str, curves: Sequence[Mapping[str, Any]]) -> None:
    """Costs over that of the smallest size; dashed what grows linearly."""
    largest = max(curve["sizes"][-1] / curve["sizes"][0] for curve in curves)
    axes.plot([1, largest], [1, largest], "--", color="gray", linewidth=1, label="linear")
    for curve in curves:
        sizes, costs = ([each / values[0] for each in values] for values in (curve["sizes"], curve["seconds"]))
        axes.plot(sizes, costs, marker="o", markersize=3, label=curve["work"])
    axes.set(xlabel=f"times the {against}", ylabel="times the cost")
    for axis, set_scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        set_scale("log", base=2)
        axis.set_major_formatter("{x:g}")
    axes.set_ylim(top=largest * 4)  # room for the legend
    axes.legend(frameon=False, fontsize=6, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
