"""``predict``: segmentations of a cohort's cases or of loose images, on the images' own grids."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from .. import torchrun
from ..errors import ErrorCode, SemiSupSegError, SettingsError
from ..files import explained
from ..models import Model
from ..runs import RunFolder, RunRequest
from ..training_settings import PredictionSettings
from .local_run import check_device, follow
from .set_option import add_set_option


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("predict", help="segment scans with a trained model")
    parser.add_argument("model", metavar="RUN_OR_MODEL", type=Path, help="the folder of a run or of a model")
    parser.add_argument(
        "scans", metavar="COHORT.json|IMAGE", type=Path, nargs="+", help="one cohort, or image files (no folder)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the results go")
    parser.add_argument("--cases", metavar="ID", nargs="+", help="only these cases of the cohort")
    parser.add_argument("--probability", action="store_true", help="write a probability volume for each class too")
    parser.add_argument("--uncertainty", action="store_true", help="write an uncertainty volume too")
    parser.add_argument("--device", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:INDEX or mps")
    add_set_option(parser, PredictionSettings, "any setting")
    parser.add_argument("--json", action="store_true", help="print the run's events, a JSON object a line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    predict(
        options.model, options.scans, options.out, _settings(options), cases=options.cases or (), as_json=options.json
    )
    if not options.json and torchrun.is_leader():
        print(f"The results are in '{options.out}'.")
    return 0


def predict(
    model: Path,
    scans: list[Path],
    out: Path,
    settings: PredictionSettings,
    *,
    cases: tuple[str, ...] | list[str] = (),
    as_json: bool = False,
) -> None:
    """Predict, here and now, and show how far it is.

    Parameters
    ----------
    model : Path
        Folder of a run or of a model.
    scans : list of Path
        One cohort, or images.
    out : Path
        Folder of the results; made if it isn't there.
    settings : PredictionSettings
        What to write, and how.
    cases : sequence of str, optional
        Only these cases of the cohort.
    as_json : bool, optional
        As in `local_run.follow`.
    """
    is_cohort = [scan.suffix == ".json" for scan in scans]
    if any(is_cohort) and len(scans) > 1:
        raise SettingsError("A cohort and other scans are given.", "Give one cohort, or images.")
    if cases and not any(is_cohort):
        raise SettingsError("Cases are given, but no cohort.", "Leave --cases out, or name the cohort.")
    for scan in scans:
        if not scan.exists():
            raise SemiSupSegError(f"There is no '{scan}'.", "Check the path.", code=ErrorCode.MISSING_FILE)
    Model.load(model)  # says what is wrong with it before torch is loaded
    check_device(settings.device)
    with explained("make the folder", out):
        out.mkdir(parents=True, exist_ok=True)
    request = RunRequest(
        task="predict",
        cohort=str(scans[0]) if any(is_cohort) else None,
        images=() if any(is_cohort) else tuple(map(str, scans)),
        model=str(model),
        settings={"prediction": settings.to_json(), "cases": list(cases), "out": str(out.resolve())},
        label=out.name,
    )
    # The results go to `out`; of the run itself nothing is worth keeping.
    with tempfile.TemporaryDirectory(prefix="semisupseg-", ignore_cleanup_errors=True) as folder:
        follow(RunFolder.create(Path(folder) / "run", request), "Predicting", as_json=as_json)


def _settings(options: argparse.Namespace) -> PredictionSettings:
    assignments = list(options.set)
    if options.device is not None:
        assignments.append(f"device={options.device}")
    assignments += [f"{name}=true" for name in ("probability", "uncertainty") if getattr(options, name)]
    return PredictionSettings().with_overrides(assignments)
