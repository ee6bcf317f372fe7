import json

import pytest

from ct_video_hf.training.arguments import build_arguments
from ct_video_hf.training.options import (
    OPTIONS,
    PRESETS,
    OptionError,
    parse_extras,
    read_config,
    resolve,
)

NEEDED = {"data": "set", "output": "out"}


def resolved(**said):
    return resolve(("test", NEEDED | said))


def arguments(tmp_path, validate=True, **said):
    options, extras = resolved(**said)
    return build_arguments(options, extras, tmp_path, validate=validate)


def test_later_sources_win_over_earlier_and_over_the_preset():
    file = ("run.yaml", {"preset": "paper-rsna", "lr": "1e-2", "epochs": 7})
    options, extras = resolve(file, ("the command line", NEEDED | {"epochs": "9"}))
    assert options["epochs"] == 9.0
    assert options["lr"] == 1e-2  # YAML reads 1e-2 as text
    assert options["optimizer"] == "adam"
    assert options["sampling"] == "0.3"
    assert options["batch_size"] == OPTIONS["batch_size"].default
    assert extras == {}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_options_with_valid_values(preset):
    for name, value in PRESETS[preset].items():
        assert OPTIONS[name].read(value) == value
    assert resolved(preset=preset)[0]["preset"] == preset


def test_paper_presets_are_the_papers(tmp_path):
    args = arguments(tmp_path, preset="paper-lidc")
    assert (args.optimizer, args.weight_decay, args.num_train_epochs) == ("adam", 1e-6, 50)
    assert args.lr_scheduler_type == "reduce_lr_on_plateau"
    assert args.lr_scheduler_kwargs == {"factor": 0.5}
    assert (args.sampling, args.early_stopping, args.study_label) == ("balanced", 5, "clips")


def test_windows_from_a_file_and_from_the_line():
    for said in ([[-600, 1500], [40, 400]], ["-600,1500", "40,400"]):
        assert resolved(windows=said)[0]["windows"] == [[-600.0, 1500.0], [40.0, 400.0]]


def test_transformers_names_are_the_same_options():
    options, extras = resolved(learning_rate=0.5, per_device_train_batch_size=3)
    assert (options["lr"], options["batch_size"], extras) == (0.5, 3, {})
    with pytest.raises(OptionError, match="one option, give it once"):
        resolved(learning_rate=0.5, lr=0.1)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"lr": "fast"}, "option lr"),
        ({"batch_size": 0}, "at least 1"),
        ({"optimizer": "adma"}, "did you mean adam"),
        ({"sampling": "1.5"}, "share of positive clips"),
        ({"windows": ["400"]}, "CENTRE,WIDTH"),
        ({"gradient_checkpointing": "perhaps"}, "true or false"),
        ({"epochs": None}, "a value is needed"),
        ({"lr": [1, 2]}, "takes one value"),
    ],
)
def test_impossible_values_are_refused(said, message):
    with pytest.raises(OptionError, match=message):
        resolved(**said)


def test_what_is_needed_is_named():
    with pytest.raises(OptionError, match="--output"):
        resolve(("test", {"data": "set"}))


def test_unknown_names_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(OptionError, match="unknown option epoch; did you mean epochs"):
        arguments(tmp_path, epoch=3)
    with pytest.raises(OptionError, match="did you mean max_grad_norm"):
        arguments(tmp_path, max_grad_nrom=3)
    with pytest.raises(OptionError, match="set by the run itself"):
        arguments(tmp_path, hub_token="hf_secret")
    with pytest.raises(OptionError, match="the repository to push to, as user/name"):
        arguments(tmp_path, push_to_hub=True)


def test_fields_of_training_arguments_are_read_by_their_type(tmp_path):
    args = arguments(
        tmp_path,
        max_grad_norm="0.5",
        logging_steps=3,
        torch_empty_cache_steps="4",
        adam_beta2=0.9,
        report_to="tensorboard",
        lr_scheduler_kwargs={"num_cycles": 0.25},
        use_cpu="true",
    )
    assert args.max_grad_norm == 0.5
    assert args.logging_steps == 3
    assert args.torch_empty_cache_steps == 4
    assert args.adam_beta2 == 0.9
    assert args.report_to == ["tensorboard"]
    assert args.lr_scheduler_kwargs == {"num_cycles": 0.25}
    assert args.use_cpu is True
    with pytest.raises(OptionError, match="max_grad_norm"):
        arguments(tmp_path, max_grad_norm="much")


def test_honest_defaults(tmp_path):
    args = arguments(tmp_path, use_cpu=True)
    assert args.metric_for_best_model == "study/auroc"
    assert args.greater_is_better
    assert args.load_best_model_at_end
    assert args.report_to == []
    assert not args.remove_unused_columns
    assert not args.logging_nan_inf_filter
    assert args.label_names == ["labels", "study_index", "clip_start"]
    assert not arguments(tmp_path, metric="loss").greater_is_better
    assert not arguments(tmp_path, metric="study/brier").greater_is_better
    last = arguments(tmp_path, validate=False)
    assert (last.eval_strategy, last.load_best_model_at_end) == ("no", False)


def test_files(tmp_path):
    (tmp_path / "run.yaml").write_text("batch-size: 2\nwindows: [[-600, 1500]]\n")
    (tmp_path / "run.json").write_text(json.dumps({"batch_size": 2, "windows": [[-600, 1500]]}))
    assert read_config(tmp_path / "run.yaml") == read_config(tmp_path / "run.json")
    (tmp_path / "bad.yaml").write_text("a: [1")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.yaml").write_text("- 1")
    for name, message in (
        ("bad.yaml", "not valid YAML"),
        ("bad.json", "not valid JSON"),
        ("list.yaml", "must hold"),
        ("none.yaml", "no configuration file"),
    ):
        with pytest.raises(OptionError, match=message):
            read_config(tmp_path / name)


def test_extra_words():
    words = ["--max-grad-norm", "1", "--report_to", "a", "b", "--use_cpu", "--seed=4"]
    assert parse_extras(words) == {
        "max_grad_norm": "1",
        "report_to": ["a", "b"],
        "use_cpu": "true",
        "seed": "4",
    }
    with pytest.raises(OptionError, match="unexpected argument"):
        parse_extras(["set"])
    with pytest.raises(OptionError, match="given twice"):
        parse_extras(["--a", "1", "--a", "2"])
