"""Export at the command line, and prediction with what it wrote."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ct_video_hf
from ct_video_hf.cli import main
from ct_video_hf.dicom.write import write_series
from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation.calibration import Calibration
from ct_video_hf.export import export_model
from ct_video_hf.export import folder as exporting
from ct_video_hf.hub import check_model_card
from ct_video_hf.hub.guard import plan_upload
from ct_video_hf.inference import ModelLoadError, load_model
from ct_video_hf.inference.exported import FORMATS
from tests.support.attention import write_attention
from tests.support.loopback_hub import COMMIT, LoopbackHub
from tests.support.prediction import SPACING, chest_hu, tiny_model_folder

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder with a calibration."""
    folder = tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")
    Calibration(
        method="temperature", parameters={"temperature": 4.0}, aggregation="max", top_k=3,
        label_from="study", split="validation", studies=40, positives=20,
    ).write(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def exports(model, tmp_path_factory):
    """Format -> exported folder, through the command line."""
    parent = tmp_path_factory.mktemp("exports")
    for name in FORMATS:
        assert main(["export", str(model), str(parent / name), "--format", name, "--quiet"]) == 0
    assert sorted(os.listdir(parent)) == sorted(FORMATS)
    return {name: parent / name for name in FORMATS}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan") / "a"
    write_series(chest_hu(40), folder, key="a", spacing=SPACING)
    return folder


@pytest.fixture
def copied(exports, tmp_path):
    """An exported folder to damage."""
    return Path(shutil.copytree(exports["onnx"], tmp_path / "copied"))


def predicted(capsys, *arguments):
    assert main(["predict", *map(str, arguments), "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("format", FORMATS)
def test_a_study_has_the_probability_of_the_eager_network(model, exports, scan, capsys, format):
    eager = predicted(capsys, model, scan, "--device", "cpu", "--backend", "eager")
    found = predicted(capsys, exports[format], scan)
    assert found["study_probability"] == pytest.approx(eager["study_probability"], abs=TOLERANCE)
    assert [clip["score"] for clip in found["clips"]] == pytest.approx(
        [clip["score"] for clip in eager["clips"]], abs=TOLERANCE
    )
    assert found["calibrated"] is True
    for name in ("calibration", "aggregation", "report", "key_slice_rule"):
        assert found[name] == eager[name]
    assert [key["index"] for key in found["key_slices"]] == [
        key["index"] for key in eager["key_slices"]
    ]
    assert found["slice_relevance"] == pytest.approx(eager["slice_relevance"], abs=1e-3)
    assert found["backend"].startswith(FORMATS[format].runtime)
    assert found["precision"] == "float32"
    assert found["model"]["name"] == format
    assert found["timings_s"]["setup"] > 0


@pytest.mark.parametrize("format", FORMATS)
def test_the_folder_holds_no_weights_and_no_code(model, exports, format):
    files = sorted(os.listdir(exports[format]))
    kind = FORMATS[format]
    graph = [kind.graph] + [name for name in kind.others if name in files]
    records = ["README.md", "calibration.json", "config.json", "parity.json"]
    assert files == sorted([*graph, *records, "video_preprocessor_config.json"])
    text = "".join((exports[format] / name).read_text() for name in files if name.endswith("json"))
    assert "auto_map" not in text
    assert str(model.parent) not in text
    assert check_model_card(exports[format]) == []


@pytest.mark.parametrize("format", FORMATS)
def test_parity_says_what_was_compared(model, exports, format):
    parity = json.loads((exports[format] / "parity.json").read_text())
    assert parity["passed"] is True
    assert parity["format"] == format
    assert parity["compared"]["shapes"] == [[1, 16, 1, 64, 64], [3, 16, 1, 64, 64]]
    assert parity["compared"]["spread_of_logits"] > 0.01
    for name, difference in parity["max_difference"].items():
        assert 0 <= difference <= parity["tolerance"][name]
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert parity["source"]["weights_sha256"] == {"model.safetensors": weights}
    assert parity["source"]["name"] == "tiny"
    for name, digest in parity["files"].items():
        assert hashlib.sha256((exports[format] / name).read_bytes()).hexdigest() == digest
    assert {"torch", FORMATS[format].backend} <= parity["versions"].keys()
    card = (exports[format] / "README.md").read_text()
    assert f"{parity['max_difference']['probabilities']:.1e}" in card


def test_a_graph_beyond_the_tolerance_is_not_kept(model, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(model), str(out), "--tolerance", "1e-12", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "logits differ by" in error
    assert "Nothing was written" in error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", FORMATS)
def test_the_comparison_finds_a_graph_of_other_weights(model, tmp_path, monkeypatch, format):
    def off(network, clip, record=exporting.record):
        network = copy.deepcopy(network)
        for parameter in network.backbone.parameters():
            parameter.data.mul_(1.01)
        return record(network, clip)

    monkeypatch.setattr(exporting, "record", off)
    with pytest.raises(CTVideoError, match=r"is not exported: in .* logits differ by"):
        export_model(model, tmp_path / "out", format=format)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("no such operation\nand more"), 1, "written as ONNX: no such operation"),
    ],
)
def test_an_export_that_stops_leaves_nothing(
    model, tmp_path, monkeypatch, capsys, error, code, words
):
    def stop(*_):
        raise error

    monkeypatch.setattr(exporting, "record", stop)
    assert main(["export", str(model), str(tmp_path / "out"), "--quiet"]) == code
    captured = capsys.readouterr().err
    assert words in captured
    assert "and more" not in captured
    assert os.listdir(tmp_path) == []


def test_what_is_not_exported(model, exports, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "empty").mkdir()
    headless = tiny_model_folder(tmp_path / "headless", study_aggregation="attention")
    for arguments, words in (
        ((headless, tmp_path / "out"), "headless has no attention head"),
        ((model, tmp_path / "there"), "there exists already"),
        ((exports["onnx"], tmp_path / "out"), "is an exported model already"),
        ((tmp_path / "empty", tmp_path / "out"), "is not a model folder"),
        ((tmp_path / "nowhere", tmp_path / "out"), "There is no folder"),
    ):
        assert main(["export", *map(str, arguments), "--quiet"]) == 1
        assert words in capsys.readouterr().err
    for wrong in (["--format", "tflite"], ["--tolerance", "0"]):
        with pytest.raises(SystemExit) as stopped:
            main(["export", str(model), str(tmp_path / "out"), *wrong])
        assert stopped.value.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_learned_attention_goes_along(tmp_path, scan, format, capsys):
    """Its features are compared, and clips have the weights that the network gives them."""
    model = tiny_model_folder(tmp_path / "attentive", study_aggregation="attention")
    head = write_attention(model)
    out = tmp_path / format
    assert main(["export", str(model), str(out), "--format", format, "--quiet"]) == 0
    parity = json.loads((out / "parity.json").read_text())
    assert parity["outputs"] == ["logits", "activation", "features"]
    assert 0 <= parity["max_difference"]["features_relative"] < 1e-5
    found, expected = (
        ct_video_hf.pipeline(str(folder), device="cpu")(scan) for folder in (out, model)
    )
    assert found["aggregation"] == expected["aggregation"]
    assert found["study_probability"] == pytest.approx(expected["study_probability"], abs=1e-5)
    shares = [[clip["attention"] for clip in result["clips"]] for result in (found, expected)]
    assert len(shares[0]) > 2
    assert np.ptp(shares[1]) > 1e-3, "clips differ in weight"
    np.testing.assert_allclose(*shares, rtol=0, atol=2e-5)

    replace(head, weights_sha256="1" * 64).write(out)
    with pytest.raises(ModelLoadError, match="fitted on other weights"):
        load_model(out)
    capsys.readouterr()
    assert main(["features", str(out), str(scan), "--out", str(tmp_path / "f.safetensors")]) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_a_push_of_a_graph_is_refused_with_what_to_do_instead(exports, capsys, format):
    """Before a Hub is asked; a dry run, too."""
    for also in ([], ["--dry-run"]):
        assert main(["push", str(exports[format]), "me/graph", *also, "--quiet"]) == 1
        error = capsys.readouterr().err
        assert f"{format} is not pushed: it is an exported model" in error
        assert "Push the model that it was made of" in error
        assert "ct-video-hf export REPO OUT" in error


def test_a_graph_beside_weights_does_not_go_along(model, exports, tmp_path):
    """Whether the folder owns up to it or not."""
    both = Path(shutil.copytree(model, tmp_path / "both"))
    shutil.copyfile(exports["onnx"] / "model.onnx", both / "model.onnx")
    plan = plan_upload(both)
    assert "model.onnx" in plan.left_out
    assert "model.onnx" not in plan.files
    shutil.copyfile(exports["onnx"] / "parity.json", both / "parity.json")
    with pytest.raises(CTVideoError, match="is an exported model"):
        plan_upload(both)


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_runtime_is_named_with_its_extra(
    model, exports, scan, tmp_path, monkeypatch, capsys, format
):
    monkeypatch.setitem(sys.modules, FORMATS[format].backend, None)
    assert main(["predict", str(exports[format]), str(scan), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert FORMATS[format].backend in error
    assert 'pip install "ct-video-hf[export]"' in error
    assert main(["export", str(model), str(tmp_path / "out"), "--format", format]) == 1
    assert 'pip install "ct-video-hf[export]"' in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_graph_that_is_cut_off(exports, scan, tmp_path, capsys):
    for format, kind in FORMATS.items():
        for name in json.loads((exports[format] / "parity.json").read_text())["files"]:
            folder = Path(shutil.copytree(exports[format], tmp_path / f"{format}-{name}"))
            whole = (folder / name).read_bytes()
            (folder / name).write_bytes(whole[: len(whole) // 2])
            assert main(["predict", str(folder), str(scan), "--quiet"]) == 1
            assert f"{name} of {folder.name} is not the file" in capsys.readouterr().err
        (folder / kind.graph).unlink()
        with pytest.raises(ModelLoadError, match=f"lacks {kind.graph}"):
            load_model(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_a_graph_that_its_runtime_cannot_open(exports, scan, tmp_path, capsys, format):
    """As after a change of the runtime: the file is what was exported."""
    folder = Path(shutil.copytree(exports[format], tmp_path / "other"))
    name = FORMATS[format].graph
    (folder / name).write_bytes(b"something else")
    change(folder, "files", {name: hashlib.sha256(b"something else").hexdigest()})
    assert main(["predict", str(folder), str(scan), "--quiet"]) == 1
    assert f"cannot open {name}" in capsys.readouterr().err


def change(folder, key, value):
    path = folder / "parity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "tflite"),
        ("format", ["onnx"]),
        ("passed", False),
        ("files", {}),
        ("files", {"model.onnx": "0", "../other": "0"}),
        ("files", [1]),
        ("input_shape", None),
    ],
)
def test_a_parity_file_that_no_export_wrote(copied, key, value):
    change(copied, key, value)
    with pytest.raises(ModelLoadError, match=r"parity\.json of copied"):
        load_model(copied)


def test_a_graph_without_its_parity_file_is_no_model(copied):
    (copied / "parity.json").unlink()
    with pytest.raises(ModelLoadError, match="where `ct-video-hf export` wrote it"):
        load_model(copied)


def test_backends_go_with_their_models(model, exports):
    for options, words in (
        ({"backend": "eager"}, "it has a graph for onnxruntime and no weights"),
        ({"backend": "openvino"}, "was exported to ONNX"),
        ({"dtype": "bfloat16"}, "compute in float32"),
        ({"device": "meta"}, "run on the CPU"),
    ):
        with pytest.raises(CTVideoError, match=words):
            ct_video_hf.pipeline(exports["onnx"], **options)
    with pytest.raises(CTVideoError, match="runs exported models, and this is none"):
        ct_video_hf.pipeline(model, device="cpu", backend="onnxruntime")
    named = ct_video_hf.pipeline(exports["openvino"], backend="openvino")
    assert named.backend.name.startswith("OpenVINO")


def test_what_needs_the_network_itself_says_so(exports, scan, tmp_path, capsys):
    maps = tmp_path / "maps"
    assert main(["predict", str(exports["onnx"]), str(scan), "--saliency", str(maps)]) == 1
    assert "Predict with the model that it was exported from, tiny" in capsys.readouterr().err
    assert main(["features", str(exports["onnx"]), str(scan), "--out", str(tmp_path / "f")]) == 1
    assert "features" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_an_ensemble_of_exported_and_ordinary_models(model, exports, scan, capsys):
    paths = [model, exports["onnx"], exports["openvino"]]
    also = [word for path in paths[1:] for word in ("--also", path)]
    found = predicted(capsys, model, scan, "--device", "cpu", *also)
    members = found["members"]
    assert [one["backend"].split()[0] for one in members] == ["PyTorch", "ONNX", "OpenVINO"]
    for member in members[1:]:
        assert member["study_probability"] == pytest.approx(
            members[0]["study_probability"], abs=TOLERANCE
        )
    assert found["slice_relevance"] is not None


def test_mirrored_views_and_batches_are_scored_alike(model, exports, scan, capsys):
    options = ("--tta", "flips", "--stride", 4, "--batch-size")
    eager = predicted(capsys, model, scan, "--device", "cpu", "--backend", "eager", *options, 4)
    for size in (1, 8):
        found = predicted(capsys, exports["onnx"], scan, *options, size)
        assert found["study_score"] == pytest.approx(eager["study_score"], abs=TOLERANCE)


def test_a_network_of_transformers_has_logits_alone(tmp_path, scan, capsys):
    from ct_video_hf.hub import save_model_folder
    from ct_video_hf.models import create_model
    from tests.support.prediction import tiny_processor
    from tests.support.transformers_models import FRAMES, SIZE, video_model_folder

    torch.manual_seed(0)
    network = create_model(video_model_folder("videomae", tmp_path / "theirs"), 1)
    processor = tiny_processor(
        size=SIZE, crop_size=SIZE, num_channels=3, num_frames=FRAMES, stride=FRAMES
    )
    folder = save_model_folder(network, processor, tmp_path / "ours")
    eager = predicted(capsys, folder, scan, "--device", "cpu")
    for format in FORMATS:
        parity = export_model(folder, tmp_path / format, format=format)
        assert parity["outputs"] == ["logits"]
        assert parity["max_difference"]["activation_relative"] is None
        found = predicted(capsys, tmp_path / format, scan)
        assert found["study_probability"] == pytest.approx(
            eager["study_probability"], abs=TOLERANCE
        )
        assert found["slice_relevance"] is None


CLIENT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import ct_video_hf
predict = ct_video_hf.pipeline("tester/model", revision="v1")
result = predict(sys.argv[2])
print(json.dumps([result["model"], result["backend"], result["study_probability"]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_by_hub_id_at_a_revision(exports, scan, tmp_path, capsys, format):
    (tmp_path / "home").mkdir()
    with LoopbackHub(exports[format]) as hub:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, str(ROOT), str(scan)],
            env=hub.environment(tmp_path / "home"), capture_output=True, text=True, timeout=240,
            cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told, backend, probability = json.loads(done.stdout)
    assert (told["name"], told["revision"], told["commit"]) == ("tester/model", "v1", COMMIT)
    assert backend.startswith(FORMATS[format].runtime)
    here = predicted(capsys, exports[format], scan)
    assert probability == pytest.approx(here["study_probability"], abs=1e-6)
