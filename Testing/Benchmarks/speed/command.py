"""The command: measures area by area, prints every row as it comes, and stores it at once."""

from __future__ import annotations

import argparse
import datetime
import importlib
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from SemiSupSegLib.files import read_json, write_json_atomically

from .machine import cores, device_name, processor, versions
from .rows import Options, Row

PACKAGE = __package__
AREAS = {
    "supervoxels": "SLIC against scikit-image and SimpleITK",
    "steps": "training steps against SGRS-Net's and SSL4MIS's scripts",
    "propagation": "the preview after a stroke against starting anew",
    "matching": "Embedding Matching against all similarities and against faiss",
    "bridge": "nodes to arrays and back against slicer.util",
    "prediction": "sliding windows and the memory of a prediction against MONAI",
    "cohort_prediction": "many scans in one process against a process a scan",
    "startup": "from the start of a worker to its first step",
    "processes": "steps of two processes under torchrun against those of one",
    "scaling": "cost against voxels, cases, classes and labeled cases",
}
"""Modules of the package, each with ``rows(options)`` that yields a `Row` at a time."""


def main(arguments: Sequence[str]) -> int:
    """Measure, print and store; 1 if a row failed or its results differ."""
    parsed = _parse(arguments)
    options = Options(parsed.quick, parsed.tiny, parsed.threads, parsed.device, parsed.seed, parsed.data, parsed.peers,
                      tuple(parsed.rows))  # fmt: skip
    report = _begun(parsed.json, options, parsed.only)
    print(f"{report['device']}, {report['threads']} of {report['cores']} cores, seed {report['seed']}\n\n{HEADER}")
    measured = []
    for area, row in _measured(parsed.only, options):
        measured.append(row)
        stored = {"area": area, **row.to_json(), "date": _today(), "size": report["size"]}
        report["rows"] = [each for each in report["rows"] if key(each) != key(stored)] + [stored]
        write_json_atomically(parsed.json, report)
        print(line(row), flush=True)
    print(f"\n{summary(measured)}")
    return int(any(row.is_wrong for row in measured))


def _measured(areas: Sequence[str], options: Options) -> Iterator[tuple[str, Row]]:
    """The rows of all areas; each area has a process of its own, so that none inherits another's memory or settings."""
    context = multiprocessing.get_context("spawn")
    for area in areas:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_send_rows, args=(sender, f"{PACKAGE}.{area}", options))
        process.start()
        sender.close()
        while True:
            try:
                yield area, receiver.recv()
            except EOFError:
                break
        process.join()
        if process.exitcode:
            yield area, Row(AREAS[area], "", error=f"the process of these rows ended with exit code {process.exitcode}")


def _send_rows(sender, module: str, options: Options) -> None:
    for row in importlib.import_module(module).rows(options):
        if row.error or options.wants(row.name, row.peer):
            sender.send(row)


def key(stored: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a stored row is about."""
    return stored["area"], stored["name"], stored["peer"]


HEADER = f"{'':<50}{'ours':>11}{'theirs':>11}{'':4}{'ratio':>8}{'aim':>7}  equal  peer"


def line(row: Row) -> str:
    """A row for people."""
    figures = "".join(f"{'–' if value is None else f'{value:.4g}':>11}" for value in (row.ours, row.theirs))
    ratio = "–" if row.ratio is None else f"{row.ratio:.3g}"
    aim = "" if row.aim is None else f"{row.aim:g}"
    aim += "" if row.limit is None else f" <{row.limit:g}"
    equal = {None: "–", True: "yes", False: "NO"}[row.equal]
    text = f"{row.name:<50}{figures} {row.unit:<3}{ratio:>8}{aim:>7}  {equal:<5}  {row.peer}"
    remarks = [f"    {remark}" for remark in (f"FAILED: {row.error}" if row.error else "", row.note) if remark]
    return "\n".join([text, *remarks])


def summary(rows: Sequence[Row]) -> str:
    """How many reached what they aim at, and what went wrong."""
    aimed = [row.reaches_aim for row in rows if row.reaches_aim is not None]
    texts = [f"{sum(aimed)} of {len(aimed)} rows with an aim reach it"]
    for count, what in (
        (sum(bool(row.error) for row in rows), "failed"),
        (sum(row.equal is False for row in rows), "differ in their results"),
        (sum(row.ratio is None and not row.error for row in rows), "were not measured"),
    ):
        if count:
            texts.append(f"{count} {what}")
    return "; ".join(texts) + "."


def _begun(path: Path, options: Options, areas: Sequence[str]) -> dict[str, Any]:
    """The report to add rows to: what is stored already and not measured now stays, if it was measured alike."""
    report = {
        "device": device_name(options.device),
        "processor": processor(),
        "cores": cores(),
        "threads": options.threads,
        "size": options.pick("full", "quick", "tiny"),
        "seed": options.seed,
        "date": _today(),
        "versions": versions(),
        "rows": [],
    }
    if path.is_file():
        stored = read_json(path, "a report of speeds")
        alike = ("device", "processor", "cores", "threads", "size", "seed")
        if all(stored.get(each) == report[each] for each in alike):
            report["rows"] = [
                row for row in stored["rows"] if row["area"] not in areas or not options.wants(row["name"], row["peer"])
            ]
        else:
            raise SystemExit(f"{path} was measured on another machine or with other options: give another --json")
    return report


def _today() -> str:
    return datetime.date.today().isoformat()


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    areas = "\n".join(f"  {name:<19}{text}" for name, text in AREAS.items())
    parser = argparse.ArgumentParser(
        prog="python -m Testing.Benchmarks speed",
        description=__doc__,
        epilog=f"areas:\n{areas}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="where the rows are stored, one by one")
    parser.add_argument("--only", nargs="+", choices=AREAS, default=list(AREAS), metavar="NAME",
                        help="these areas; rows of others that OUT holds stay")  # fmt: skip
    parser.add_argument("--rows", nargs="+", default=[], metavar="TEXT",
                        help="only rows in whose 'name / peer' one of these texts occurs")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="smaller inputs: minutes instead of an hour")
    parser.add_argument("--tiny", action="store_true", help="inputs for tests; the figures mean nothing")
    parser.add_argument("--threads", type=int, default=cores(), help="of both sides; all cores unless given")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=_folder("SEMISUPSEG_DATA"), help="folder of the data sets")
    parser.add_argument("--peers", type=Path, default=_folder("SEMISUPSEG_PEERS"),
                        help="folder with check-outs of SGRS-Net and SSL4MIS")  # fmt: skip
    return parser.parse_args(arguments)


def _folder(variable: str) -> Path | None:
    return Path(os.environ[variable]) if variable in os.environ else None
