"""``ct-video-hf convert``: every published row from a server to a folder that strangers load."""

from __future__ import annotations

import io
import json
import re
import shlex
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from ct_video_hf.cli import build_parser, main
from ct_video_hf.hub import check_model_card, check_model_folder
from ct_video_hf.models import create_model, download, get_backbone, list_backbones
from tests.models.backbone_cases import enliven
from tests.models.originals import all_originals
from tests.support.checkpoint_server import CheckpointServer
from tests.support.clip_sets import write_clip_set
from tests.support.code_blocks import blocks
from tests.support.stranger import run_as_stranger

ORIGINALS = all_originals()
CARDS = Path(__file__).parents[2] / "model_cards"
PUBLISHED = [name for name in list_backbones() if get_backbone(name).weights]


@contextmanager
def registry_row(name, **changes):
    """The registry with one row changed, as all of the package sees it."""
    row, known = replace(get_backbone(name), **changes), get_backbone
    patched = mock.Mock(side_effect=lambda asked: row if asked == name else known(asked))
    with (
        mock.patch("ct_video_hf.models.registry.get_backbone", patched),
        mock.patch("ct_video_hf.models.get_backbone", patched),
    ):
        yield row


@contextmanager
def small_row(name, url=None):
    """The row of ``name`` in the size of its small original; its first weights are at ``url``."""
    record = get_backbone(name)
    first = next(iter(record.weights))
    weights = {first: replace(record.weights[first], url=url, sha256=None)}
    sizes = dict(record.overrides) | dict(ORIGINALS[name].sizes)
    with registry_row(name, overrides=sizes, weights=weights):
        yield first


def published_file(name, layout="model_state"):
    """The small original, and a file of its weights as its authors write it."""
    original = enliven(ORIGINALS[name].small()).eval()
    state = {f"module.{key}": value for key, value in original.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({layout: state, "epoch": 7}, buffer)
    return original, buffer.getvalue()


@pytest.fixture
def slow(tmp_path):
    original, content = published_file("slow_r50")
    path = tmp_path / "SLOW.pyth"
    path.write_bytes(content)
    with small_row("slow_r50"):
        yield original, path


OUTSIDE = """
import contextlib, io, json, sys
from pathlib import Path
import torch
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

for folder in map(Path, sys.argv[1:]):
    model = AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        logits = model(torch.load(folder.with_suffix(".clip"), weights_only=True)).logits
    torch.save(logits, folder.with_suffix(".out"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(folder.with_suffix(".code").read_text(), folder.name, "exec"), scope := {})
    answer = {"printed": printed.getvalue(), "processor": scope["processor"].to_dict()}
    folder.with_suffix(".json").write_text(json.dumps(answer))
"""


@contextmanager
def row_of_its_card(name):
    """The row in the size of its small original, which is its published file, and the file."""
    original, content = published_file(name)
    server = CheckpointServer(content, f"{name}.pyth")
    record = get_backbone(name)
    weights = {
        key: replace(entry, url=entry.url and server.url, sha256=None)
        for key, entry in record.weights.items()
    }
    frames, side, _ = ORIGINALS[name].clips[0]
    sizes = dict(record.overrides) | dict(ORIGINALS[name].sizes)
    sizes |= {"num_frames": frames, "image_size": side}
    try:
        with registry_row(name, overrides=sizes, weights=weights):
            yield original, content
    finally:
        server.close()


def how_to_use(card):
    """Python and commands of the section of that name."""
    found = [block for block in blocks(card.read_text()) if block.section == "How to use it"]
    python = [block.text for block in found if block.language == "python"]
    commands = [line for block in found if block.language == "bash" for line in block.commands]
    assert len(python) == 1
    return python[0], [shlex.split(command)[1:] for command in commands]


@pytest.mark.slow
def test_every_card_from_its_commands_to_a_process_without_the_package(
    tmp_path, capsys, monkeypatch
):
    """One test over the registry, for one process loads all folders and runs their cards' code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download.constants, "HF_HOME", str(tmp_path / "home"))
    np.save("scan.npy", np.full((20, 48, 48), -900, np.int16))
    expected = {}
    for name in PUBLISHED:
        _, commands = how_to_use(CARDS / f"{name}.md")
        assert len(commands) == len(get_backbone(name).weights)
        with row_of_its_card(name) as (original, content):
            Path("CHECKPOINT").write_bytes(content)
            for weights, words in zip(get_backbone(name).weights, commands, strict=True):
                assert words[:2] == ["convert", name]
                assert main([*words, "--keep-head", "--json", "--quiet"]) == 0
                answer = json.loads(capsys.readouterr().out)
                assert (answer["labels"], answer["head"]) == (5, "kept")
                assert answer["weights"] == weights
                folder = Path(words[3])
                assert check_model_card(folder) + check_model_folder(folder) == []
                code, (training,) = how_to_use(folder / "README.md")
                folder.with_suffix(".code").write_text(code)
                args = build_parser("train").parse_args(training)
                create_model(args.backbone, 1, args.weights)  # what that command starts with
                frames, rows, columns = ORIGINALS[name].clips[0]
                clip = torch.rand(1, frames, 3, rows, columns)
                torch.save(clip, folder.with_suffix(".clip"))
                with torch.no_grad():
                    logits = ORIGINALS[name].feed(original, clip)
                expected[folder.name] = logits, answer
    run_as_stranger(OUTSIDE, *expected, folder=tmp_path, timeout=500)
    for folder, (logits, answer) in expected.items():
        found = torch.load(f"{folder}.out", weights_only=True)
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-5, msg=folder)
        told = json.loads(Path(f"{folder}.json").read_text())
        record = get_backbone(answer["backbone"])
        published = record.weights[answer["weights"]]
        assert told["processor"]["mean"] == pytest.approx(published.mean), folder
        config = json.loads(Path(folder, "config.json").read_text())
        clips = -(-20 // config["num_frames"])
        assert re.fullmatch(rf"torch\.Size\(\[{clips}, \d+\]\)\n", told["printed"]), told["printed"]


def test_a_local_file_with_a_new_head(slow, tmp_path, capsys):
    original, path = slow
    out = tmp_path / "model"
    assert main(["convert", "slow_r50", str(path), str(out), "--num-labels", "2"]) == 0
    assert "classifier    new, labels: 2" in capsys.readouterr().out
    model = AutoModelForVideoClassification.from_pretrained(out)
    clip = torch.rand(1, 3, 3, 32, 32)
    with torch.no_grad():
        logits = model(clip)
        features = []
        original.blocks[-1].pool.register_forward_hook(lambda *call: features.append(call[-1]))
        original(clip.transpose(1, 2))
    assert logits.logits.shape == (1, 2)
    pooled = features[0].mean((2, 3, 4))
    torch.testing.assert_close(logits.pooler_output, pooled, rtol=0, atol=1e-5)
    card = (out / "README.md").read_text()
    assert "given by hand, and no hash is published" in card
    assert download.sha256_of(path) in card
    assert "The classifier starts at random" in card
    assert "from a file given by hand" in card
    assert "if it is the published file: trained on | Kinetics-400 videos" in card
    assert "Published weights" not in card
    assert "not measured here" in card
    assert str(tmp_path) not in card + (out / "conversion.json").read_text()
    names = {file.name for file in out.iterdir()}
    assert {"config.json", "model.safetensors", "video_preprocessor_config.json"} <= names
    assert {"slow.py", "base.py", "conversion.json", "README.md"} <= names


@pytest.mark.slow
def test_the_cards_command_finetunes_the_folder(slow, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["convert", "slow_r50", "SLOW.pyth", "model", "--image-size", "32", "--num-frames", "8"]
    assert main(words) == 0
    write_clip_set(tmp_path / "my_set", {"train": 4, "validation": 2, "test": 2})
    _, (training,) = how_to_use(tmp_path / "model" / "README.md")
    assert main([*training, "--quiet"]) == 0
    assert "study/auroc" in capsys.readouterr().out
    record = json.loads((tmp_path / "my_model" / "training_config.json").read_text())
    assert record["converted_from"]["backbone"] == "slow_r50"


@pytest.mark.parametrize(("inflation", "factor"), [("sum", 1), ("mean", 1 / 3)])
def test_one_channel_and_another_clip(slow, tmp_path, inflation, factor):
    original, path = slow
    words = ["convert", "slow_r50", str(path), str(tmp_path / "model"), "--keep-head"]
    words += ["--channels", "1", "--inflation", inflation, "--num-frames", "16"]
    assert main([*words, "--image-size", "64"]) == 0
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "model")
    weight = original.blocks[0].conv.weight.sum(1, keepdim=True) * factor
    torch.testing.assert_close(model.backbone.blocks[0].conv.weight.data, weight.data)
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "model")
    assert (processor.num_channels, processor.mean, processor.std) == (1, [0.45], [0.225])
    assert (processor.num_frames, processor.crop_size, processor.size) == (16, 64, 73)
    assert (model.config.num_frames, model.config.image_size) == (16, 64)
    assert "first layer's weights" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-frames", "2"], "takes at least 3 frames"),
        (["--channels", "1", "--inflation", "mean", "--keep-head", "--num-labels", "4"], None),
    ],
)
def test_what_the_network_cannot_take_is_refused(slow, tmp_path, capsys, words, message):
    command = ["convert", "slow_r50", str(slow[1]), str(tmp_path / "model"), *words]
    if message is None:
        with pytest.raises(SystemExit) as leave:
            main(command)
        assert leave.value.code == 2
    else:
        assert main(command) == 1
        assert message in capsys.readouterr().err
    assert [item.name for item in tmp_path.iterdir()] == ["SLOW.pyth"]


def test_bad_files_leave_nothing_behind(slow, tmp_path, capsys):
    path, out = slow[1], tmp_path / "out"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert main(["convert", "slow_r50", str(path), str(out), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert "SLOW.pyth cannot be read" in answer["error"]
    torch.save({"x": torch.zeros(1)}, path)
    assert main(["convert", "slow_r50", str(path), str(out)]) == 1
    assert "does not fit slow_r50" in capsys.readouterr().err
    assert main(["convert", "slow_r50", str(tmp_path / "none.pyth"), str(out)]) == 1
    assert "neither a file or folder, nor a Hub id" in capsys.readouterr().err
    assert [item.name for item in tmp_path.iterdir()] == ["SLOW.pyth"]


def test_an_existing_folder_stays_as_it_is(slow, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    assert main(["convert", "slow_r50", str(slow[1]), str(tmp_path / "model")]) == 1
    assert "model exists already" in capsys.readouterr().err
    assert not any((tmp_path / "model").iterdir())


def test_download_only_then_offline(tmp_path, capsys, monkeypatch):
    original, content = published_file("slow_r50")
    server = CheckpointServer(content)
    cache = ["--cache-dir", str(tmp_path / "cache")]
    monkeypatch.setattr(download.constants, "is_offline_mode", lambda: offline)
    with small_row("slow_r50", server.url):
        offline = True
        convert = ["convert", "slow_r50", "kinetics", str(tmp_path / "model"), "--keep-head"]
        assert main([*convert, *cache]) == 1
        assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
        offline = False
        assert main(["convert", "slow_r50", "--download-only", "--json", "-q", *cache]) == 0
        (entry,) = json.loads(capsys.readouterr().out)["files"]
        assert Path(entry["file"]).read_bytes() == content
        assert entry["sha256"] == download.sha256_of(Path(entry["file"]))
        server.close()
        offline = True
        assert main([*convert, *cache]) == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "downloaded from the published address; no hash is published" in card
    assert "Published weights of the video network slow_r50, trained on Kinetics-400 videos" in card
    assert "if it is the published file" not in card
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "model")
    assert model.config.problem_type == "single_label_classification"
    clip = torch.rand(1, 3, 3, 32, 32)
    with torch.no_grad():
        expected = original(clip.transpose(1, 2))
        torch.testing.assert_close(model(clip).logits, expected, rtol=0, atol=1e-5)


def test_nothing_to_download_says_why(capsys):
    assert main(["convert", "slow_tiny", "--download-only"]) == 1
    assert "slow_tiny has nothing to download; its published weights: none" in (
        capsys.readouterr().err
    )
    with small_row("slow_r50", url=None):
        assert main(["convert", "slow_r50", "--download-only"]) == 1
        assert "nothing to download: not stated apart" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["slow_r50"],
        ["slow_r50", "kinetics"],
        ["--list", "slow_r50"],
        ["slow_r50", "kinetics", "out", "--download-only"],
        ["slow_r05", "kinetics", "out"],
        ["slow_r50", "kinetics", "out", "--channels", "0"],
        ["slow_r50", "kinetics", "out", "--keep-head", "--num-labels", "3"],
    ],
)
def test_wrong_use_exits_with_2(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leave:
        main(["convert", *words])
    assert leave.value.code == 2
    assert "usage: ct-video-hf convert" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_the_list_names_everything(capsys):
    assert main(["convert", "--list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["backbones"]}
    assert list(rows) == list_backbones()
    for name in PUBLISHED:
        for weights in rows[name]["weights"].values():
            assert {"url", "sha256", "size_bytes", "code_license", "weight_license", "origin",
                    "frames", "stride", "image_size", "mean", "std", "labels", "top1", "protocol",
                    "paper"} <= weights.keys()  # fmt: skip
    assert rows["r3d_18"]["weights"]["kinetics"]["size_mib_stated"] > 100
    assert main(["convert", "--list"]) == 0
    text = capsys.readouterr().out
    for name in list_backbones():
        assert f"\n{name} (" in "\n" + text
    assert "SLOW_8x8_R50.pyth" in text
    assert "74.58 %" in text
    assert "MiB, as torchvision states" in text


def test_torchvisions_class_names_come_along():
    from ct_video_hf.models.registry import _published_labels

    record = get_backbone("r3d_18").weights["kinetics"]
    fields = _published_labels(400, 1, record, {})
    assert fields["id2label"][0] == "abseiling"
    assert fields["label2id"]["zumba"] == 399
    assert fields["problem_type"] == "single_label_classification"
    assert "id2label" not in _published_labels(
        400, 1, get_backbone("slow_r50").weights["kinetics"], {}
    )


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mvit_b_32x3", ["--num-frames", "16"], "Learned positions (1 tensors"),
        ("lrcn_resnet18", [], "The checkpoint lacks these parts, which start at random: `"),
    ],
)
def test_interpolated_positions_and_new_parts_are_on_the_card(name, options, words, tmp_path):
    path = tmp_path / "weights.pyth"
    state = published_file(name)[0].state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith("gru.")}, path)
    with small_row(name):
        assert main(["convert", name, str(path), str(tmp_path / "out"), *options, "-q"]) == 0
    facts = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert bool(facts["interpolated"]) == bool(options)
    assert bool(facts["new_parts"]) != bool(options)
    assert words in (tmp_path / "out" / "README.md").read_text()
    assert check_model_card(tmp_path / "out") == []
