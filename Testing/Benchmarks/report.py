"""``python -m Testing.Benchmarks report RESULT.json …``: stored studies as the README's tables, and as a picture.

Give the upper bound too (a study with the labels of all training scans): methods then say how much of what labels can
add they add without them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from SemiSupSegLib.errors import SemiSupSegError
from SemiSupSegLib.files import read_json

from . import correction
from .doubt import case_dice, ranking
from .statistics import BASELINES, compare

BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"
_TEST, _UNLABELED = "test teacher", "unlabeled teacher"
_NOTHING = "–"
_DATA = {"la": "Left atrium", "acdc": "ACDC (heart, 3 classes)", "hippocampus": "Hippocampus"}
Study = Mapping[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Print a table of each study, write them into a file, draw the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m Testing.Benchmarks report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--readme", type=Path, help="Markdown file with the marks")
    parser.add_argument("--plot", type=Path, help="picture: Dice of each run, and what uncertainty is worth")
    options = parser.parse_args(arguments)
    bodies = [_body(path) for path in options.results]
    studies = [each for each in bodies if "comparisons" in each]
    tables = [markdown(studies), *(correction.markdown(each) for each in bodies if "added" in each)]
    text = "\n\n".join(each for each in tables if each)
    print(text)
    if options.readme:
        readme = options.readme.read_text(encoding="utf-8")
        options.readme.write_text(updated(readme, text), encoding="utf-8", newline="\n")
    if options.plot and not studies:
        raise SemiSupSegError("There is no study to draw.", "Give what la, acdc or hippocampus have stored, too.")
    if options.plot:
        from .picture import plot

        plot(studies, options.plot)
    return 0


def _body(path: Path) -> Mapping[str, Any]:
    body = read_json(path, "a result file")
    if "comparisons" not in body and "added" not in body:
        raise SemiSupSegError(
            f"'{path}' was not stored by a study.", "Give what la, acdc, hippocampus or correction have stored."
        )
    return body


def updated(text: str, tables: str) -> str:
    """A Markdown text with the tables between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}"


def markdown(studies: Sequence[Study]) -> str:
    """A title and a table for each study; upper bounds are rows of the studies that they bound."""
    bounds = [study for study in studies if is_bound(study, studies)]
    parts = []
    for study in studies:
        if study in bounds:
            continue
        bound = bound_of(study, studies)
        parts += [title(study), "", *_table(study, bound), ""]
    return "\n".join(parts).rstrip()


def title(study: Study) -> str:
    """What was trained on what, how long, and on which machine."""
    rows = study["rows"]
    counts = {row["method"]: row["iterations"] for row in rows}
    budget = ", ".join(f"`{method}` {count}" for method, count in counts.items())
    settings = ", ".join(each for each in study["settings"] if not each.startswith("threads"))
    return (
        f"**{_DATA[study['protocol']]}, {study['labeled']} scans with {_annotation(study)}** ({study['form']} form, "
        f"{rows[0]['device']}, {study['date']}{', ' + settings if settings else ''}; iterations: {budget})"
    )


def _annotation(study: Study) -> str:
    return "dense labels" if study["annotation"] == "dense" else "scribbles"


def is_bound(study: Study, studies: Sequence[Study]) -> bool:
    """Whether a study is the upper bound of another: the same protocol, more labels, `supervised` alone."""
    return {row["method"] for row in study["rows"]} == {"supervised"} and any(_bounds(study, each) for each in studies)


def bound_of(study: Study, studies: Sequence[Study]) -> Study | None:
    """The upper bound of a study, if it is there."""
    return next((each for each in studies if is_bound(each, studies) and _bounds(each, study)), None)


def _bounds(bound: Study, study: Study) -> bool:
    return (
        bound is not study
        and all(bound[key] == study[key] for key in ("protocol", "form", "settings"))
        and (bound["labeled"] > study["labeled"] or bound["annotation"] != study["annotation"])
        and _iterations(bound) & _iterations(study)
        and len({row["method"] for row in study["rows"]}) > 1
    )


_COLUMNS = (
    "method", "runs", "minutes", "test Dice", "HD95 (mm)", "without suspected repeats", "unlabeled scans' Dice",
    "gain, test (95 %)", "gain, unlabeled scans (95 %)", "of what all labels add", "Spearman",
)  # fmt: skip


def _iterations(study: Study) -> set[int]:
    """Of the supervised runs: a longer training is no bound of a shorter one's."""
    return {row["iterations"] for row in study["rows"] if row["method"] == "supervised"}


def _table(study: Study, bound: Study | None) -> list[str]:
    """Rows of means over runs, and of the paired differences from the baseline; without columns that say nothing."""
    baseline = baseline_of(study)
    gains, gains_unlabeled = _gains(study, _TEST), _gains(study, _UNLABELED)
    few, many = _mean(study, baseline, _TEST), _mean(bound or study, "supervised", _TEST)
    rows = []
    methods = sorted(dict.fromkeys(row["method"] for row in study["rows"]), key=lambda method: method != baseline)
    for method in methods:
        share = _NOTHING
        if few is not None and many is not None and method != baseline and few != many:
            share = f"{(_mean(study, method, _TEST) - few) / (many - few):.0%}"
        is_dense = method == "supervised" and study["annotation"] != "dense"
        name = f"`{method}`, their dense labels" if is_dense else f"`{method}`"
        rows.append([name, *_means(study, method), _gain(gains.get(method)), _gain(gains_unlabeled.get(method)), share,
                     _spearman(study, method)])  # fmt: skip
    if bound:
        rows.append([f"`supervised`, {bound['labeled']} dense labels", *_means(bound, "supervised"), _NOTHING, _NOTHING,
                     "100%", _spearman(bound, "supervised")])  # fmt: skip
    columns = [column for column in zip(_COLUMNS, *rows, strict=True) if set(column[1:]) != {_NOTHING}]
    header, *lines = zip(*columns, strict=True)
    return [_line(header), _line(["---"] * len(header)), *map(_line, lines)]


def baseline_of(study: Study) -> str | None:
    """The plain baseline that was run."""
    methods = {row["method"] for row in study["rows"]}
    wanted = BASELINES if study["annotation"] == "dense" else BASELINES[::-1]
    return next((each for each in wanted if each in methods), None)


def _gains(study: Study, measure: str) -> dict[str, Mapping[str, Any]]:
    """Each method's paired difference from the study's baseline."""
    found = compare([row for row in study["rows"] if measure in row], measure)
    return {each["method"]: each for each in found if each["baseline"] == baseline_of(study)}


def _means(study: Study, method: str) -> list[str]:
    rows = [row for row in study["rows"] if row["method"] == method]
    dice = np.array([row[_TEST]["mean_dice"] for row in rows])
    spread = f" ± {dice.std(ddof=1):.3f}" if len(dice) > 1 else ""
    clean = [np.mean([case_dice(row[_TEST]["cases"][case]) for case in row["clean test"]]) for row in rows]
    unlabeled = [row[_UNLABELED]["mean_dice"] for row in rows if _UNLABELED in row]
    has_repeats = any(len(row["clean test"]) < len(row[_TEST]["cases"]) for row in rows)
    return [
        str(len(rows)), f"{np.mean([row['seconds'] for row in rows]) / 60:.1f}", f"{dice.mean():.3f}{spread}",
        f"{_hd95(rows):.1f}", f"{np.mean(clean):.3f}" if has_repeats else _NOTHING,
        f"{np.mean(unlabeled):.3f}" if unlabeled else _NOTHING,
    ]  # fmt: skip


def _gain(difference: Mapping[str, Any] | None) -> str:
    """A paired difference; bold where "better" may be claimed: in every run, or the interval above 0 after Holm."""
    if difference is None:
        return _NOTHING
    text = f"{difference['difference']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    sure = difference["better"] == difference["runs"] or (difference["low"] > 0 and difference["p_holm"] < 0.05)
    return f"{f'**{text}**' if sure else text}, {difference['better']} of {difference['runs']}"


def _spearman(study: Study, method: str) -> str:
    values = [ranking(pooled(row))["spearman"] for row in study["rows"] if row["method"] == method]
    return f"{np.mean(values):+.2f}" if np.isfinite(values).all() else _NOTHING


def pooled(row: Mapping[str, Any]) -> dict[str, Any]:
    """Test scans and unlabeled ones of a run together: what a user would rank."""
    groups = [row[group] for group in (_TEST, _UNLABELED) if group in row]
    return {key: {k: v for each in groups for k, v in each[key].items()} for key in ("cases", "uncertainty")}


def _mean(study: Study, method: str | None, group: str) -> float | None:
    values = [row[group]["mean_dice"] for row in study["rows"] if row["method"] == method]
    return float(np.mean(values)) if values else None


def _hd95(rows: Sequence[Mapping[str, Any]]) -> float:
    values = [each["hd95"] for row in rows for case in row[_TEST]["cases"].values() for each in case.values()]
    return float(np.mean([value for value in values if value is not None]))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
