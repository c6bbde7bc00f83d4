"""``cohort create``: a cohort of files that pair by their names."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cohort import Cohort, Role
from ..cohort_creation import create_cohort
from ..cohort_lint import Finding, lint_cohort
from ..progress import ProgressBar


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("cohort", help="make a cohort of scans, labels and scribbles")
    create = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser(
        "create",
        help="pair files by their names",
        description="scribbles/case7_scribble.nrrd and labels/case7_label.nrrd belong to images/case7.nrrd "
        "(also .seg.nrrd, .nii.gz, .mha). For DIR, a file or a quoted pattern such as 'images/*_t1c.nrrd' will do too. "
        "A .seg.nrrd names its classes itself; other files are told what their values mean with --scribble-values and "
        "--label-values. What may be wrong with the files is said; the cohort is written all the same, and the exit "
        "code is 1 if something can't be used as it is.",
    )
    create.add_argument("out", metavar="OUT.json", type=Path, help="the cohort's file")
    create.add_argument("--images", metavar="DIR", required=True, help="the scans; their names are the case IDs")
    create.add_argument("--labels", metavar="DIR", help="dense labels: what no class covers is background")
    create.add_argument("--scribbles", metavar="DIR", help="scribbles: what nobody painted is unknown")
    create.add_argument("--scribble-values", metavar="VALUES", help='such as "background=1,left atrium=2"')
    create.add_argument("--label-values", metavar="VALUES", help='such as "left atrium=1"')
    create.add_argument(
        "--labeled",
        metavar="ID",
        nargs="+",
        help="only these train with their annotation; others keep it for evaluation",
    )
    create.add_argument("--validation", metavar="ID", nargs="+", default=(), help="cases that training is measured on")
    create.add_argument("--test", metavar="ID", nargs="+", default=(), help="cases that training never sees")
    create.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    create.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with ProgressBar("Looking at the files") as bar:
        cohort = create_cohort(
            images=options.images,
            labels=options.labels,
            scribbles=options.scribbles,
            scribble_values=options.scribble_values,
            label_values=options.label_values,
            labeled=options.labeled,
            validation=options.validation,
            test=options.test,
            name=options.out.stem,
            on_progress=bar.update,
        )
    cohort = cohort.save(options.out)
    with ProgressBar("Checking the scans") as bar:
        findings = lint_cohort(cohort, bar.update)
    summary = summary_of(cohort, findings)
    errors = sum(finding.severity == "error" for finding in findings)
    if options.json:
        print(json.dumps(summary, indent=2))
        return int(errors > 0)
    for finding in findings:
        print(as_sentence(finding), file=sys.stderr)
    print(as_text(summary))
    if errors:
        those = "that error" if errors == 1 else f"those {errors} errors"
        print(f"The cohort is written; mend {those} before training, then create it again.", file=sys.stderr)
    return int(errors > 0)


def as_sentence(finding: Finding) -> str:
    """A finding as people read it, with the case that it is about."""
    where = f" in case '{finding.case_id}'" if finding.case_id else ""
    return f"{finding.severity.capitalize()}{where}: {finding.message} {finding.remedy}"


def summary_of(cohort: Cohort, findings: Sequence[Finding]) -> dict[str, Any]:
    """What ``cohort create --json`` prints."""
    training = cohort.cases_of(Role.TRAIN)
    annotated = [case for case in training if case.annotated]
    return {
        "cohort": str(cohort.path),
        "classes": list(cohort.schema.names),
        "cases": len(cohort.cases),
        "training": len(training),
        "scribbled": sum(case.scribble is not None for case in annotated),
        "densely_labeled": sum(case.label is not None and case.scribble is None for case in annotated),
        "unlabeled": len(training) - len(annotated),
        "validation": len(cohort.cases_of(Role.VALIDATION)),
        "test": len(cohort.cases_of(Role.TEST)),
        "findings": [finding.to_json() for finding in findings],
    }


def as_text(summary: dict[str, Any]) -> str:
    """The summary as people read it."""
    return (
        f"{summary['cohort']}: {summary['cases']} cases of {', '.join(summary['classes'])}\n"
        f"  training: {summary['scribbled']} with scribbles, {summary['densely_labeled']} with dense labels, "
        f"{summary['unlabeled']} without annotation\n"
        f"  validation: {summary['validation']}, test: {summary['test']}"
    )
