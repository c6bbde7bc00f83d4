"""The panels: their ``.ui`` files fit the code that uses them, and their decisions, which need no Qt.

What only a running Slicer shows (drawing, painting, training from the window) is the module's own self-test,
`SemiSupSegTest`.
"""

from __future__ import annotations

import ast
import importlib.metadata as metadata
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core isn't installed")

from SemiSupSegLib.cohort_lint import Finding
from SemiSupSegLib.doctor import Advice
from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.events import Event
from SemiSupSegLib.runs import State
from SemiSupSegLib.slicer_bridge import advanced_form, case_texts, computer_texts, panel_state, run_texts
from SemiSupSegLib.slicer_bridge.case_table import CaseRow
from SemiSupSegLib.slicer_bridge.compute import Compute
from SemiSupSegLib.slicer_bridge.console_tasks import ConsoleTask, install_steps, installation_error, lint_task
from SemiSupSegLib.slicer_bridge.panel_state import Situation
from SemiSupSegLib.slicer_bridge.shelf import Card
from SemiSupSegLib.training_settings import METHODS, TrainingSettings

DESCRIPTIONS = tuple(TrainingSettings.describe())

ROOT = Path(__file__).resolve().parents[2]
WIDGETS = ROOT / "SemiSupSeg" / "SemiSupSegWidgets"
UI = ROOT / "SemiSupSeg" / "Resources" / "UI"
PANELS = sorted(path.stem for path in UI.glob("*.ui"))

SIGNALS = {
    "QPushButton": {"clicked(bool)"},
    "QToolButton": {"clicked(bool)", "toggled(bool)"},
    "QCheckBox": {"toggled(bool)"},
    "QComboBox": {"activated(int)", "currentIndexChanged(int)"},
    "QDoubleSpinBox": {"valueChanged(double)"},
    "QLineEdit": {"textChanged(QString)"},
    "QDialogButtonBox": {"accepted()", "rejected()"},
    "QListWidget": {"itemDoubleClicked(QListWidgetItem*)", "itemClicked(QListWidgetItem*)", "itemSelectionChanged()"},
    "QTableWidget": {
        "itemSelectionChanged()",
        "cellDoubleClicked(int,int)",
        "cellClicked(int,int)",
        "itemChanged(QTableWidgetItem*)",
    },
}
"""The signals that the panels connect, copied from Qt 5.15's documentation; a misspelt one is silent in PythonQt."""


def widgets_of(panel: str) -> dict[str, str]:
    """Names and classes of the widgets in a ``.ui`` file."""
    return {
        each.get("name"): each.get("class") for each in ElementTree.parse(UI / f"{panel}.ui").getroot().iter("widget")
    }


PARTS = {"ResultsPanel": ("ResultsPanel", "Scores")}
"""Files of a panel's code, where there is more than one."""


def code_of(panel: str) -> str:
    """What a panel's files say."""
    return "\n".join((WIDGETS / f"{part}.py").read_text(encoding="utf-8") for part in PARTS.get(panel, (panel,)))


def names_used(panel: str) -> set[str]:
    """The X of every ``self.ui.X`` and ``ui.X`` in a panel's code."""
    return set(re.findall(r"\bui\.(\w+)", code_of(panel)))


# -- the files --------------------------------------------------------------------------------------------------------


def test_there_is_a_ui_file_for_every_panel():
    assert PANELS == ["AddFolderDialog", "AnnotatePanel", "CohortPanel", "ResultsPanel", "SetupPanel", "TrainPanel"]
    assert all((WIDGETS / f"{name}.py").is_file() for name in PANELS)


@pytest.mark.parametrize("panel", PANELS)
def test_every_widget_that_the_code_uses_is_in_the_ui_file(panel):
    assert names_used(panel) - widgets_of(panel).keys() == set()


@pytest.mark.parametrize("panel", PANELS)
def test_names_in_a_ui_file_are_unique(panel):
    names = [each.get("name") for each in ElementTree.parse(UI / f"{panel}.ui").getroot().iter("widget")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("panel", PANELS)
def test_a_ui_file_needs_no_designer_plugin_and_fixes_no_geometry(panel):
    root = ElementTree.parse(UI / f"{panel}.ui").getroot()
    assert all(each.get("class").startswith("Q") for each in root.iter("widget"))
    assert not [each for each in root.iter("property") if each.get("name") in ("geometry", "maximumSize")]


@pytest.mark.parametrize("panel", PANELS)
def test_no_panel_asks_for_more_than_560_pixels(panel):
    root = ElementTree.parse(UI / f"{panel}.ui").getroot()
    sizes = [each for each in root.iter("property") if each.get("name") == "minimumSize"]
    assert all(int(each.findtext("size/width")) <= 520 for each in sizes)


@pytest.mark.parametrize("panel", PANELS)
def test_every_button_says_what_it_does(panel):
    for each in ElementTree.parse(UI / f"{panel}.ui").getroot().iter("widget"):
        if each.get("class") in ("QPushButton", "QToolButton"):
            assert each.findtext("property[@name='toolTip']/string"), each.get("name")


@pytest.mark.parametrize("panel", PANELS)
def test_signals_that_are_connected_exist(panel):
    classes = widgets_of(panel)
    connected = re.findall(r'\bui\.(\w+)\.connect\(\s*"([^"]+)"', code_of(panel))
    assert connected
    for name, signal in connected:
        assert signal in SIGNALS[classes[name]], (name, signal)


@pytest.mark.parametrize("path", sorted(WIDGETS.glob("*.py")), ids=lambda path: path.stem)
def test_methods_that_are_connected_exist(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bases = ast.parse((WIDGETS / "Panel.py").read_text(encoding="utf-8"))
    inherited = {each.name for each in ast.walk(bases) if isinstance(each, ast.FunctionDef)}
    for kind in [each for each in tree.body if isinstance(each, ast.ClassDef)]:
        own = {each.name for each in kind.body if isinstance(each, ast.FunctionDef)} | inherited
        own |= {
            target.attr
            for each in ast.walk(kind)
            if isinstance(each, ast.Assign | ast.AnnAssign)
            for target in (each.targets if isinstance(each, ast.Assign) else [each.target])
            if isinstance(target, ast.Attribute)
        }
        for call in [each for each in ast.walk(kind) if isinstance(each, ast.Call)]:
            function = call.func
            if isinstance(function, ast.Attribute) and ast.unparse(function.value) == "self":
                assert function.attr in own, f"{kind.name}.{function.attr}"


@pytest.mark.parametrize("path", sorted(WIDGETS.glob("*.py")), ids=lambda path: path.stem)
def test_translated_texts_are_plain_literals(path):
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "_":
            assert isinstance(call.args[0], ast.Constant), ast.unparse(call)


def test_decisions_are_made_for_buttons_that_exist():
    now = Situation()
    for panel, actions in (
        ("SetupPanel", panel_state.setup_actions(now)),
        ("CohortPanel", panel_state.cohort_actions(now)),
        ("AnnotatePanel", panel_state.annotate_actions(now)),
        ("TrainPanel", panel_state.train_actions(now)),
        ("ResultsPanel", panel_state.results_actions(now)),
    ):
        assert actions.keys() <= widgets_of(panel).keys()


# -- which button works -----------------------------------------------------------------------------------------------

ROW = CaseRow("a", (64, 64, 32), (1.0, 1.0, 2.5), "none", 0.0, "train", True, False, None, "new")
STROKES = replace(ROW, annotation="scribbles", annotated_fraction=0.01, status="annotated")


def card(**changes) -> Card:
    """A finished run, without a model."""
    return replace(Card(Path("run"), "first", "sp3", State.FINISHED, 200, None, 3 * 2**20), **changes)


def all_actions(now: Situation) -> dict:
    """The decisions of all panels, by panel and button."""
    kinds = ("setup", "cohort", "annotate", "train", "results")
    return {
        (kind, name): action for kind in kinds for name, action in getattr(panel_state, f"{kind}_actions")(now).items()
    }


@pytest.mark.parametrize(
    "now",
    [
        Situation(),
        Situation(is_open=True),
        Situation(is_open=True, rows=(ROW,), selected=("a",), shown="a", volumes=1, ready=False),
        Situation(is_open=True, rows=(STROKES,), training=State.RUNNING, ready=True),
        Situation(is_open=True, rows=(STROKES,), predicting=True, checking=frozenset({"cohort"}), installing=True),
    ],
)
def test_a_button_that_cannot_work_says_why(now):
    for which, action in all_actions(now).items():
        assert action.enabled or action.why_not.endswith("."), which
        assert not (action.enabled and action.why_not), which


def test_without_a_cohort_one_can_only_begin():
    works = {name for (_, name), action in all_actions(Situation()).items() if action.enabled}
    assert works == {"newButton", "openButton", "sampleButton", "checkButton", "pythonBrowseButton"}


def test_the_compute_python_is_chosen_where_nothing_else_chooses_it():
    def enabled(python):
        actions = panel_state.setup_actions(Situation(python=python))
        return [actions[name].enabled for name in ("pythonBrowseButton", "pythonDefaultButton")]

    assert [enabled(python) for python in ("own", "other", "fixed")] == [[True, False], [True, True], [False, False]]


def test_a_report_needs_a_training_and_a_measurement_a_reference():
    now = Situation(is_open=True, rows=(replace(ROW, has_prediction=True),))
    assert "No training" in panel_state.train_actions(now)["reportButton"].why_not
    assert panel_state.train_actions(replace(now, has_report=True))["reportButton"].enabled
    assert "complete label" in panel_state.results_actions(now)["measureButton"].why_not
    rows = (replace(now.rows[0], has_reference=True),)
    assert panel_state.results_actions(replace(now, rows=rows))["measureButton"].enabled


def test_looking_at_one_thing_leaves_the_others_alone():
    now = Situation(is_open=True, rows=(replace(ROW, has_prediction=True, has_reference=True),), ready=False)
    buttons = {"computer": ("setup", "checkButton"), "cohort": ("cohort", "checkButton")} | {
        "results": ("results", "measureButton")
    }
    for looked_at, button in buttons.items():
        actions = all_actions(replace(now, checking=frozenset({looked_at})))
        assert [each for each in buttons.values() if not actions[each].enabled] == [button]
        assert actions["setup", "cancelButton"].enabled == (looked_at == "computer")


def test_training_needs_strokes_on_a_training_case():
    start = lambda *rows: panel_state.train_actions(Situation(is_open=True, rows=rows))["startButton"]  # noqa: E731
    assert "Scribble" in start(ROW).why_not
    assert "Scribble" in start(replace(STROKES, role="test")).why_not
    assert "Scribble" in start(replace(STROKES, labeled=False)).why_not
    assert start(STROKES).enabled


def test_an_unready_computer_does_not_train_but_an_unknown_one_may_try():
    now = Situation(is_open=True, rows=(STROKES,))
    assert panel_state.train_actions(now)["startButton"].enabled
    assert "Setup" in panel_state.train_actions(replace(now, ready=False))["startButton"].why_not


def test_a_running_training_pauses_and_a_paused_one_continues():
    now = Situation(is_open=True, rows=(STROKES,), shown="a", training=State.RUNNING)
    names = ("startButton", "pauseButton", "continueButton", "cancelButton", "previewButton")
    enabled = lambda now: [panel_state.train_actions(now)[name].enabled for name in names]  # noqa: E731
    assert enabled(now) == [False, True, False, True, True]
    assert enabled(replace(now, training=State.PAUSED)) == [False, False, True, True, False]
    assert enabled(replace(now, cancelling_training=True)) == [False] * 5
    assert enabled(replace(now, predicting=True, cancelling_prediction=True)) == enabled(replace(now, predicting=True))
    assert enabled(replace(now, training=None)) == [True, False, False, False, False]


def test_another_cohort_waits_for_a_prediction_but_not_for_a_training_which_goes_on_alone():
    now = Situation(is_open=True, rows=(ROW,), predicting=True)
    assert not panel_state.cohort_actions(now)["openButton"].enabled
    assert panel_state.cohort_actions(now)["addFilesButton"].enabled
    assert panel_state.cohort_actions(replace(now, predicting=False, training=State.RUNNING))["openButton"].enabled


def test_classes_are_settled_once_something_is_annotated():
    def removable(row, **changes):
        now = Situation(is_open=True, rows=(row,), classes=2, class_row=1)
        return panel_state.annotate_actions(replace(now, **changes))["removeClassButton"].enabled

    assert removable(ROW)
    assert not removable(STROKES)
    assert not removable(ROW, class_row=-1)
    assert not removable(ROW, class_row=2), "the background"
    assert not removable(ROW, classes=1, class_row=0), "the only class"


def test_first_and_last_case_have_no_neighbour():
    rows = (ROW, replace(ROW, id="b"))
    at = lambda shown: panel_state.annotate_actions(Situation(is_open=True, rows=rows, shown=shown))  # noqa: E731
    assert [at("a")[name].enabled for name in ("previousCaseButton", "nextCaseButton")] == [False, True]
    assert [at("b")[name].enabled for name in ("previousCaseButton", "nextCaseButton")] == [True, False]


def test_results_need_a_model_and_correction_a_prediction():
    now = Situation(is_open=True, rows=(replace(ROW, has_prediction=True),), shown="a", cards=(card(),))
    assert not panel_state.results_actions(now)["predictAllButton"].enabled
    assert panel_state.results_actions(replace(now, cards=(card(model=object()),)))["predictAllButton"].enabled
    assert panel_state.results_actions(now)["correctButton"].enabled
    assert not panel_state.results_actions(replace(now, rows=(ROW,)))["correctButton"].enabled
    outside = panel_state.results_actions(replace(now, outside="other scan"))["correctButton"]
    assert not outside.enabled
    assert "'other scan'" in outside.why_not


def test_a_working_run_is_not_deleted_and_a_finished_one_not_resumed():
    def actions(chosen):
        return panel_state.results_actions(Situation(is_open=True, cards=(chosen,), card=chosen))

    assert not actions(card(state=State.RUNNING))["deleteButton"].enabled
    assert not actions(card())["resumeButton"].enabled
    predicting = Situation(is_open=True, cards=(card(),), card=card(), predicting=True)
    assert not panel_state.results_actions(predicting)["deleteButton"].enabled
    stopped = card(state=State.CANCELLED, can_resume=True)
    assert actions(stopped)["deleteButton"].enabled
    assert actions(stopped)["resumeButton"].enabled


# -- how things are said ----------------------------------------------------------------------------------------------


def test_a_row_has_a_text_for_every_header():
    assert len(case_texts.case_cells(ROW)) == len(case_texts.case_headers()) == case_texts.CASE_COLUMNS
    assert case_texts.case_cells(replace(ROW, dimensions=None, spacing=None))[1] == "?"
    assert case_texts.case_cells(replace(STROKES, has_reference=True))[2] == "scribbles\n1.0 %, + label"


def test_findings_show_in_their_row_with_what_to_do():
    findings = (Finding("a", "warning", "It is odd.", "Look at it."), Finding("b", "error", "Bad.", "Fix it."))
    assert case_texts.status_icon(ROW, findings) == "warning"
    assert case_texts.status_tip(ROW, findings) == "a\na: It is odd. Look at it."
    assert case_texts.status_icon(replace(ROW, problem="Unreadable."), ()) == "error"


def test_the_annotated_share_names_what_is_missing():
    text = case_texts.annotated_text({"liver": 50, "background": 0}, 1000)
    assert "liver 5.0 %" in text
    assert "Not painted yet: background" in text
    assert case_texts.annotated_text({"liver": 0}, 1000).startswith("Nothing")


def test_a_complete_label_has_nothing_to_paint_yet():
    text = case_texts.annotated_text({"liver": 50, "tumor": 0}, 1000, "label")
    assert "liver 5.0 %" in text
    assert "no tumor" in text
    assert "yet" not in text


def test_progress_says_stage_iterations_and_time():
    event = Event(
        "progress", 0.0, {"stage": "Training", "fraction": 0.5, "iteration": 5, "iterations": 10, "seconds_left": 61}
    )
    assert run_texts.progress_text(event, State.RUNNING) == "Training, iteration 5 of 10, 1:01 left"
    assert run_texts.progress_percent(event) == 50
    assert run_texts.progress_percent(None) == -1
    assert run_texts.progress_text(event, State.PAUSED) == "Paused"
    assert run_texts.progress_text(event, State.RUNNING, is_cancelled=True).startswith("Stopping")


def test_a_training_that_was_stopped_says_whether_it_can_go_on():
    assert "go on" in run_texts.outcome_text(State.CANCELLED, 7, "train")
    assert "go on" not in run_texts.outcome_text(State.CANCELLED, 0, "train")


def test_every_method_has_a_title_and_advice_in_two_lines():
    for method in METHODS:
        assert run_texts.method_title(method) != method
        assert run_texts.method_advice(method).count("\n") == 1


def test_every_state_has_a_word():
    assert len({run_texts.state_text(state) for state in State}) == len(State)


def test_presets_are_3_20_and_120_minutes():
    assert [each.minutes for each in run_texts.presets()] == [3, 20, 120]
    assert run_texts.preset_of(20) == 1
    assert run_texts.preset_of(7) == -1


# -- the Advanced form ------------------------------------------------------------------------------------------------

DESCRIPTIONS = tuple(TrainingSettings.describe())


def test_the_form_offers_every_setting_that_no_other_widget_asks_for():
    offered = {
        each.key
        for method in METHODS
        for members in advanced_form.form_groups(DESCRIPTIONS, method).values()
        for each in members
    }
    assert {each.key for each in DESCRIPTIONS} - offered == set(advanced_form.ON_THE_PANEL)


def test_the_form_shows_only_the_chosen_methods_own_settings():
    groups = advanced_form.form_groups(DESCRIPTIONS, "sgrs")
    assert "sgrs" in groups
    assert "sp3" not in groups


def test_an_untouched_form_changes_nothing():
    texts = {each.key: advanced_form.setting_text(each.default) for each in DESCRIPTIONS}
    assert advanced_form.changed_settings(texts, DESCRIPTIONS) == {}
    assert advanced_form.changed_settings({"seed": " ", "plan.patch": ""}, DESCRIPTIONS) == {}, "emptied is the default"
    assert advanced_form.changed_settings({"seed": "3"}, DESCRIPTIONS) == {"seed": "3"}


def test_a_tip_says_meaning_range_default_and_name():
    tips = {each.key: advanced_form.setting_tip(each) for each in DESCRIPTIONS}
    assert tips["seed"] == "Seed of every random number. (0 – 2147483647)\nDefault: 0\nseed"
    assert "Default: automatic" in tips["plan.patch"]
    assert "Default: false, false, false" in tips["augmentation.mirror"]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("plan.patch", "32, 32, 16", (32, 32, 16)),
        ("plan.batch_size", "2", 2),
        ("plan.batch_size", "", None),
        ("augmentation.mirror", "true, false, false", (True, False, False)),
        ("deep_supervision", "true", True),
        ("optimizer.name", "sgd", "sgd"),
        ("largest_component", "ball, tube", "ball, tube"),
    ],
)
def test_texts_of_the_form_become_settings(key, text, value):
    settings = TrainingSettings().with_overrides(advanced_form.assignments({key: text}, "sp3", DESCRIPTIONS))
    for part in key.split("."):
        settings = getattr(settings, part)
    assert settings == value


def test_settings_of_other_methods_stay_at_home():
    assert advanced_form.assignments({"sgrs.weight": "2", "seed": "3"}, "sp3", DESCRIPTIONS) == ["seed=3"]


# -- small jobs in a process of their own -----------------------------------------------------------------------------


def test_the_last_json_line_is_the_answer():
    task = ConsoleTask([Compute().interpreter, "-c", "print('log'); print('{\"a\": 1}'); print('bye')"])
    assert task.wait(60) == 0
    assert task.answer == {"a": 1}
    assert list(task.lines) == ["log", '{"a": 1}', "bye"]


def test_an_answer_of_a_megabyte_comes_whole():
    task = ConsoleTask([Compute().interpreter, "-c", "import json; print(json.dumps({'a': ['case'] * 150_000}))"])
    assert task.wait(60) == 0
    assert len(task.answer["a"]) == 150_000


def test_a_cancelled_task_ends_at_once():
    task = ConsoleTask([Compute().interpreter, "-c", "import time; time.sleep(600)"])
    task.cancel()
    assert task.wait(30) not in (None, 0)
    assert task.was_cancelled


def test_lint_runs_in_its_own_process(tmp_path):
    from SemiSupSegLib.phantom import make_phantom_cohort

    cohort = make_phantom_cohort(tmp_path, 2, (12, 24, 24), n_scribbled=1, n_test=1)
    task = lint_task(cohort.path)
    assert task.wait(120) == 0, list(task.lines)
    assert isinstance(task.answer["findings"], list)


@pytest.mark.parametrize("program", ["nowhere/python", "data"])
def test_program_that_cannot_be_started_is_said_in_a_sentence(tmp_path, program):
    (tmp_path / "data").write_text("no program")
    with pytest.raises(SemiSupSegError, match="can't be started") as caught:
        ConsoleTask([str(tmp_path / program)])
    assert "another compute Python" in caught.value.remedy


def test_task_that_goes_wrong_says_its_sentence(tmp_path):
    task = lint_task(tmp_path / "nowhere.json")
    assert task.wait(120) == 1
    assert task.error.code is ErrorCode.MISSING_FILE
    assert "nowhere.json" in task.error.message


def test_what_is_there_is_pinned_and_what_is_not_is_left_out(tmp_path):
    pins = tmp_path / "pins für pip.txt"
    steps = install_steps(Compute(), ["monai"], pins, None)
    assert not any("\n" in argument for step in steps for argument in step)  # launchers on Windows break it
    assert ConsoleTask([*steps[0], "no-such-package"]).wait(60) == 0
    assert f"numpy=={metadata.version('numpy')}\n" in pins.read_text(encoding="utf-8")
    assert "no-such-package" not in pins.read_text(encoding="utf-8")


def test_installing_never_lets_pip_replace_what_is_there(tmp_path):
    steps = install_steps(Compute("python"), ["torch", "monai"], tmp_path / "pins.txt", ["light_the_torch", "torch"])
    assert ["python", "-m", "light_the_torch", "torch"] in steps
    assert steps[-1][:6] == ["python", "-m", "pip", "install", "-c", str(tmp_path / "pins.txt")]
    assert not any(each.startswith("torch") for each in steps[-1])


def test_another_python_gets_what_slicers_own_has_from_the_start(tmp_path):
    steps = install_steps(Compute("python"), ["numpy", "SimpleITK", "monai"], tmp_path / "pins.txt", None)
    assert steps[0][-2:] == ["scipy", "torch"]
    assert [each.partition(">=")[0] for each in steps[-1][6:]] == ["numpy", "SimpleITK", "monai"]


@pytest.mark.parametrize(
    ("said", "code", "sentence"),
    [
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: None found",
            "packages-missing",
            "reach",
        ),
        ("OSError: [Errno 28] No space left on device", "disk-full", "disk"),
        ("error: externally-managed-environment", "not-writable", "operating system"),
        ("ERROR: Could not install packages: [Errno 13] Permission denied", "not-writable", "written"),
        ("/usr/bin/python3: No module named pip", "packages-missing", "no pip"),
        (
            "ERROR: first\nERROR: No matching distribution found for monai",
            "packages-missing",
            "distribution found for monai.",
        ),
        ("Killed", "packages-missing", "failed."),
    ],
)
def test_a_failed_installation_says_why_in_a_sentence(said, code, sentence):
    error = installation_error(said.splitlines())
    assert error.code == code
    assert sentence in error.message
    assert error.remedy.endswith(".")


def test_a_computer_that_lacks_packages_is_told_of_the_button():
    lacking = Advice("Training lacks monai.", "Install it: python -m pip install monai", blocks=True, topic="packages")
    crashed = Advice("Importing the packages ended the process.", "Install torch again.", blocks=True)
    report = {"ready": False, "packages": [], "devices": [], "advice": [asdict(lacking), asdict(crashed)]}
    text = computer_texts.computer_text(report)
    assert "lacks monai. Install gets them." in text
    assert "Install torch again." in text
    assert "pip" not in text


def test_nothing_is_installed_where_nothing_lacks(tmp_path):
    assert install_steps(Compute("python"), [], tmp_path / "pins.txt", None) == []


def test_tab_leaves_every_table_for_what_comes_next():
    tables = [
        (path.name, table)
        for path in sorted(UI.glob("*.ui"))
        for table in ElementTree.parse(path).iter("widget")
        if table.get("class") == "QTableWidget"
    ]
    assert tables
    for name, table in tables:
        values = {each.get("name"): each.findtext("bool") for each in table.findall("property")}
        assert values.get("tabKeyNavigation") == "false", (name, table.get("name"))
