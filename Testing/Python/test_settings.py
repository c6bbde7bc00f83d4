"""Settings: typed, checked with a sentence, and the same after a trip through JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from SemiSupSegLib.errors import ErrorCode, SettingsError
from SemiSupSegLib.training_settings import DEFAULT_MINUTES, METHODS, PredictionSettings, TrainingSettings


def refusal(*assignments: str) -> str:
    with pytest.raises(SettingsError) as caught:
        TrainingSettings().with_overrides(assignments)
    assert caught.value.code is ErrorCode.BAD_SETTING
    return str(caught.value)


def test_defaults_survive_json():
    for settings in (TrainingSettings(), PredictionSettings()):
        assert type(settings).from_json(json.loads(json.dumps(settings.to_json()))) == settings


@given(
    st.builds(
        lambda method, seed, rate, spacing, features, mirror: TrainingSettings().with_overrides(
            [
                f"method={method}",
                f"seed={seed}",
                f"optimizer.learning_rate={json.dumps(rate)}",
                f"plan.spacing={json.dumps(spacing)}",
                f"plan.features={json.dumps(features)}",
                f"augmentation.mirror={json.dumps(mirror)}",
            ]
        ),
        st.sampled_from(METHODS),
        st.integers(0, 2**31 - 1),
        st.none() | st.floats(1e-7, 1),
        st.none() | st.lists(st.floats(0.01, 50), min_size=3, max_size=3),
        st.none() | st.lists(st.integers(1, 1024), min_size=1, max_size=6),
        st.lists(st.booleans(), min_size=3, max_size=3),
    )
)
def test_any_settings_survive_json(settings):
    assert TrainingSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_is_typed_is_taken_or_refused_with_a_sentence(key, text):
    for name in (key, "minutes", "seed", "plan.features", "augmentation.mirror", "warm_start", "teacher"):
        refusals = []
        try:
            TrainingSettings().with_overrides([f"{name}={text}"])
        except SettingsError as error:
            refusals.append(error.message)
        assert all(message.endswith(".") for message in refusals)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("sede=1", "Did you mean 'seed'?"),
        ("plan.spacin=1", "Did you mean 'spacing'?"),
        ("method=sp4", "Did you mean 'sp3'?"),
        ("seed=-1", "0 to 2147483647"),
        ("seed=1.5", "a whole number"),
        ("seed=true", "a whole number"),
        ("minutes=soon", "a number"),
        ("minutes=NaN", "a number"),
        ("iterations=Infinity", "a whole number"),
        ("minutes=1e999", "a number"),
        ("minutes=" + "9" * 5000, "a number"),
        ("iterations=" + "[" * 5000, "a whole number"),
        ("plan.spacing=1,1", "It takes 3 numbers"),
        ("plan.spacing=[a,b,c]", "can't be ['a', 'b', 'c']"),
        ("plan.features=x", "a list of whole numbers"),
        ("plan.spacing=1,0,1", "0.01 to 50"),
        ("teacher=0.9", "Set one of its parts"),
        ("seed.low=1", "no part 'low'"),
        ("seed", "KEY=VALUE"),
        ("plan.network=resnet", "one of: auto, unet"),
    ],
)
def test_a_bad_setting_is_refused_with_what_is_allowed(assignment, words):
    assert words in refusal(assignment)


def test_a_group_is_refused_where_it_is_no_list_of_settings():
    with pytest.raises(SettingsError, match="names and values"):
        TrainingSettings.from_json({"plan": 5})
    with pytest.raises(SettingsError, match="names and values"):
        TrainingSettings(plan=5)
    with pytest.raises(SettingsError, match="names and values"):
        TrainingSettings.from_json([])


def test_minutes_and_iterations_exclude_each_other():
    assert "Give one of them" in refusal("minutes=3", "iterations=5")


def test_what_lies_beyond_cannot_be_asked_for_and_its_condition_excluded():
    assert "Change one of them" in refusal("far_background=on", "largest_component=off")
    assert "dense labels only" in refusal("far_background=on", "method=supervised")
    assert "published code" in refusal("far_background=on", "method=sgrs", "sgrs.legacy=true")
    assert "names no class" in refusal("largest_component=")


def test_one_setting_may_be_allowed_by_another_that_comes_later():
    changes = ["method=supervised", "far_background=on", "annotations=scribbles"]
    assert TrainingSettings().with_overrides(changes) == TrainingSettings().with_overrides(reversed(changes))


@pytest.mark.parametrize(
    ("method", "former", "now"), [("sp3", True, "auto"), ("sp3", False, "off"), ("sgrs", True, "off")]
)
def test_runs_of_the_version_in_which_only_sp3_looked_beyond_strokes_go_on_as_they_began(method, former, now):
    body = TrainingSettings(method=method, seed=3).to_json()
    del body["far_background"]
    body["sp3"]["far_background"] = former
    assert TrainingSettings.from_json(body) == TrainingSettings(method=method, seed=3, far_background=now)
    assert TrainingSettings.unsaid(TrainingSettings.translated(body)) == []
    assert body["sp3"]["far_background"] is former
    with pytest.raises(SettingsError, match="names and values"):
        TrainingSettings.from_json({"sp3": None})


def test_runs_of_the_version_that_never_centred_embeddings_go_on_as_they_began():
    body = TrainingSettings(method="embedding_matching").to_json()
    del body["embedding_matching"]["centred"]
    assert TrainingSettings.from_json(body).embedding_matching.centred == "off"
    assert TrainingSettings.unsaid(TrainingSettings.translated(body)) == []
    few = {"embedding_matching": {"passes": 3}}  # what a person wrote
    assert TrainingSettings.from_json(few).embedding_matching.centred == "auto"


@pytest.mark.parametrize("balance", [0.4, 0.0])
def test_runs_of_the_version_that_balanced_pseudo_labels_like_expanded_scribbles_go_on_as_they_began(balance):
    body = TrainingSettings().with_overrides([f"sp3.class_balance={balance}"]).to_json()
    for known in ("align_volumes", "pseudo_balance"):
        del body["sp3"][known]
    sp3 = TrainingSettings.from_json(body).sp3
    assert (sp3.pseudo_balance, sp3.align_volumes) == (balance, False)
    assert TrainingSettings.unsaid(TrainingSettings.translated(body)) == []
    sp3 = TrainingSettings.from_json({"sp3": {"class_balance": 0.3}}).sp3  # what a person wrote
    assert (sp3.pseudo_balance, sp3.align_volumes) == (None, True)


def test_runs_of_the_version_that_did_not_align_volumes_go_on_as_they_began():
    body = TrainingSettings().with_overrides(["sp3.pseudo_balance=0"]).to_json()
    del body["sp3"]["align_volumes"]
    sp3 = TrainingSettings.from_json(body).sp3
    assert (sp3.pseudo_balance, sp3.align_volumes) == (0, False)
    assert TrainingSettings.unsaid(TrainingSettings.translated(body)) == []


def test_without_a_budget_the_default_minutes_count():
    assert TrainingSettings().budget_minutes == DEFAULT_MINUTES
    assert TrainingSettings(iterations=5).budget_minutes is None


def test_lists_are_typed_with_or_without_brackets():
    typed = TrainingSettings().with_overrides(["plan.patch=112,112,80", "plan.features=[8, 16]"])
    assert typed.plan.patch == (112, 112, 80)
    assert typed.plan.features == (8, 16)
    assert typed.with_overrides(["plan.patch=None"]).plan.patch is None


@pytest.mark.parametrize("folder", ["a,b/model", "12", "true", "null", "[1]", "Vorhof links/é"])
def test_a_text_is_taken_as_it_was_typed(folder):
    assert TrainingSettings().with_overrides([f"warm_start={folder}"]).warm_start == folder


def test_every_setting_describes_itself_and_takes_its_own_default():
    described = list(TrainingSettings.describe())
    assert {"method", "optimizer.learning_rate", "sp3.conflict"} <= {each.key for each in described}
    for each in described:
        assert each.description
        if each.default is not None and each.default != "":
            text = each.default if isinstance(each.default, str) else json.dumps(each.default)
            TrainingSettings().with_overrides([f"{each.key}={text}"])
