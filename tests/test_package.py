"""The package as a whole: quick imports, lazy registration, the command line's manners."""

import json
import subprocess
import sys

import pytest

import ct_video_hf
from ct_video_hf.cli import COMMANDS, main


def python(code):
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, ct_video_hf, json;"
        "print(json.dumps([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules]))"
    )
    assert json.loads(python(code)) == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command):
    code = f"""
import sys
from ct_video_hf.cli import main
try:
    main({[command, "--help"] if command else ["--help"]!r})
except SystemExit as leave:
    assert leave.code == 0, leave.code
heavy = {{'torch', 'transformers', 'datasets', 'numpy', 'pandas', 'pydicom'}} & set(sys.modules)
assert not heavy, heavy
"""
    assert "usage: ct-video-hf" in python(code)


@pytest.mark.parametrize(
    "order",
    [
        "import ct_video_hf; from transformers import AutoConfig",
        "from transformers import AutoConfig; import ct_video_hf",
        "import transformers, ct_video_hf; AutoConfig = transformers.AutoConfig",
        "import ct_video_hf.models; from transformers import AutoConfig",
        # these import an auto module in the middle of modeling_utils
        "import ct_video_hf; from transformers import pipeline, AutoConfig",
        "import ct_video_hf; from transformers import Trainer, AutoConfig",
        "import ct_video_hf; from transformers import PreTrainedModel, AutoConfig",
        "import ct_video_hf; from transformers import VideoMAEForVideoClassification, AutoConfig",
    ],
)
def test_auto_classes_know_the_models_whatever_is_imported_first(order):
    assert "CTSlowConfig" in python(f"{order}; print(AutoConfig.for_model('ct_slow'))")


def test_auto_model_and_processor_are_registered():
    code = (
        "import ct_video_hf;"
        "from transformers import AutoModelForVideoClassification as A, AutoConfig;"
        "from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING as P;"
        "c = AutoConfig.for_model('ct_slow', depths=[1], stem_width=4, head_pool='mean');"
        "print(type(A.from_config(c)).__name__, P[type(c)])"
    )
    printed = python(code)
    assert "CTSlowForVideoClassification" in printed
    assert "CTVideoProcessor" in printed


def test_every_exported_name_exists():
    for name in ct_video_hf.__all__:
        assert getattr(ct_video_hf, name) is not None
    assert set(ct_video_hf.__all__) <= set(dir(ct_video_hf))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ct_video_hf.nothing


def test_wrong_use_exits_with_2(capsys):
    for words in ([], ["dance"], ["inspect"], ["inspect", "--dance"]):
        with pytest.raises(SystemExit) as leave:
            main(words)
        assert leave.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", "model", "scan", "--batch-sise", "3"])
    error = capsys.readouterr().err
    assert "usage: ct-video-hf predict" in error
    assert "--batch-sise 3; did you mean --batch-size?" in error


def test_failure_exits_with_1_and_without_traceback(capsys, tmp_path):
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1
    printed = capsys.readouterr().err
    assert "nowhere" in printed
    assert "Traceback" not in printed


def test_traceback_when_asked_for(tmp_path):
    with pytest.raises(ct_video_hf.CTReadError):
        main(["inspect", str(tmp_path / "nowhere"), "--traceback"])


def test_version_is_the_distribution_version(capsys):
    with pytest.raises(SystemExit) as leave:
        main(["--version"])
    assert leave.value.code == 0
    assert ct_video_hf.__version__ in capsys.readouterr().out
