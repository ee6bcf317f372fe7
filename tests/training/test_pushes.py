"""Pushes of a training: every commit is a whole model, and none of them is in training's way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ct_video_hf.cli import main
from ct_video_hf.data import load_ct_dataset
from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation import Calibration, read_calibration
from ct_video_hf.hub import HubError, check_card_text, check_model_folder
from ct_video_hf.inference import load_model
from ct_video_hf.models import CTVideoProcessor, create_model
from ct_video_hf.training import CTTrainer, CTTrainingArguments, counts, run
from ct_video_hf.training.inputs import clip_dataset
from tests.support.hub_client import client_of
from tests.support.hub_server import HubServer
from tests.support.tiny_runs import OPTIONS, REPOSITORY, words

REPO = "tester/nodules"
CALIBRATION = Calibration(
    method="temperature", parameters={"temperature": 1.5}, aggregation="max", top_k=3,
    label_from="study", split="validation", studies=40, positives=20,
)  # fmt: skip
LOAD = """
import sys, torch
sys.modules["ct_video_hf"] = None  # importing it fails from here on
from transformers import AutoModelForVideoClassification, AutoVideoProcessor
repo, *commits = sys.argv[1:]
clip = torch.rand(1, 8, 1, 32, 32, generator=torch.manual_seed(0))
for commit in commits:
    kwargs = dict(trust_remote_code=True, revision=commit)
    model = AutoModelForVideoClassification.from_pretrained(repo, **kwargs)
    processor = AutoVideoProcessor.from_pretrained(repo, **kwargs)
    print(processor.num_frames, float(model(pixel_values=clip).logits))
"""


def client(hub, home, *line, token="hf_write"):
    """A process with a cache of its own."""
    environment = hub.env(home, token) | {
        "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CT_VIDEO_HF_PAUSE": "0.01",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *map(str, line)], env=environment, capture_output=True, text=True,
        timeout=400, check=False, cwd=home.parent,
    )  # fmt: skip


def pushed(hub, folder):
    """Every commit but that which made the repository, written to a folder each."""
    folders = []
    for commit in hub.commits(REPO)[1:]:
        for name, content in hub.files(REPO, revision=commit).items():
            path = folder / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        folders.append(folder / commit)
    return folders


def make_trainer(clip_set, output, **given):
    """A Trainer as a user of the library makes one."""
    studies = load_ct_dataset(clip_set)
    processor = CTVideoProcessor(size=36, crop_size=32, num_frames=8, num_channels=1)
    return CTTrainer(
        create_model("slow_tiny", num_frames=8, image_size=32),
        CTTrainingArguments(
            output_dir=str(output), use_cpu=True, disable_tqdm=True, num_train_epochs=1,
            per_device_train_batch_size=4, push_to_hub=True, **given,
        ),
        train_dataset=clip_dataset(studies["train"], processor, train=True),
        eval_dataset=clip_dataset(studies["validation"], processor, train=False),
        processing_class=processor,
    )  # fmt: skip


@pytest.mark.slow
def test_every_commit_loads_without_the_package(clip_set, tmp_path):
    with HubServer(tmp_path / "hub", busy_commits=1, cut_puts=1) as hub:
        line = words(
            data=clip_set, output="run", push_to_hub=REPO, license="cc-by-4.0",
            hub_always_push="true", **OPTIONS,
        )  # fmt: skip
        done = client(hub, tmp_path / "home", "-m", "ct_video_hf", "train", "--json", *line)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)["push"]
        folders = pushed(hub, tmp_path / "commits")
        commits = [folder.name for folder in folders]
        assert len(commits) == 3, "two epochs and the finished model"
        assert (told["repo"], told["commit"], told["private"]) == (REPO, commits[-1], True)
        assert told["verified"] == len(told["files"])
        loaded = client(hub, tmp_path / "stranger", "-c", LOAD, REPO, *commits)
        assert loaded.returncode == 0, loaded.stderr
    frames, logits = zip(*(line.split() for line in loaded.stdout.splitlines()), strict=True)
    assert frames == ("8", "8", "8")
    assert len(set(logits[:2])) == 2, "each is the model of its moment"
    for number, folder in enumerate(folders):
        card = (folder / "README.md").read_text()
        assert check_model_folder(folder) == []
        assert check_card_text(card) == []
        assert "license: cc-by-4.0" in card
        assert f'ct_video_hf.pipeline("{REPO}")' in card
        assert ("**Training in progress** (epoch" in card) == (number < 2)
        assert (folder / "metrics.json").exists() == (number == 2)
        assert not list(folder.rglob("predictions*")) + list(folder.rglob("*.pt*"))
    assert not list((tmp_path / "run").glob(".push*")), "nothing is left of the pushes"


def test_a_hub_that_fails_costs_no_training(clip_set, tmp_path, capsys):
    with HubServer(tmp_path / "hub", fail_commit_every=1) as hub, client_of(hub):
        line = words(data=clip_set, output=tmp_path / "run", push_to_hub=REPO, **OPTIONS)
        assert main(["train", *line]) == 1
        said = capsys.readouterr()
        assert "did not answer 5 times (status 503)" in said.err
        assert f"ct-video-hf push {tmp_path / 'run'} {REPO}" in said.err
        assert "model folder" in said.out
        assert "not pushed, training goes on" in said.err
        assert hub.files(REPO) == {}
        hub.clear_faults()
        assert main(["push", str(tmp_path / "run"), REPO]) == 0  # what it was told
        assert "model.safetensors" in hub.files(REPO)
    assert check_model_folder(tmp_path / "run") == []


def test_a_refusal_comes_before_the_first_step(clip_set, tmp_path):
    given = OPTIONS | {"data": str(clip_set), "output": str(tmp_path / "run"), "push_to_hub": REPO}
    with HubServer(tmp_path / "hub") as hub:
        with client_of(hub, None), pytest.raises(HubError, match="nobody is logged in"):
            run(**given)
        with client_of(hub, "hf_read"), pytest.raises(HubError, match="write permission"):
            run(**given)
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run_options.json"]
        with client_of(hub):
            first = run(**given, hub_strategy="end", hub_private_repo="false")
            assert first.push["private"] is False
            assert len(hub.commits(REPO)) == 2, "strategy end: the finished model alone"
            with pytest.raises(HubError, match="is public and a private one was asked for"):
                run(**(given | {"output": str(tmp_path / "other")}))


def test_adapters_are_merged_in_every_push(clip_set, tmp_path):
    pytest.importorskip("peft", reason="low-rank adapters need peft")
    given = OPTIONS | {"data": str(clip_set), "output": str(tmp_path / "run"), "lora": 2}
    with HubServer(tmp_path / "hub") as hub, client_of(hub):
        run(push_to_hub=REPO, hub_always_push="true", **given)
        folders = pushed(hub, tmp_path / "commits")
    assert len(folders) == 3
    for folder in folders:
        assert check_model_folder(folder) == []
        loaded = load_model(folder)
        assert loaded.training["parameters"] == sum(p.numel() for p in loaded.model.parameters())


def test_a_trainer_of_ones_own(clip_set, tmp_path, caplog, monkeypatch):
    counted, table = [], counts.clip_table
    monkeypatch.setattr(counts, "clip_table", lambda clips: counted.append(clips) or table(clips))
    save = CTTrainer._save_optimizer_and_scheduler

    def with_script(self, folder):
        save(self, folder)
        Path(folder, "zero_to_fp32.py").write_text("DeepSpeed's")  # which it adds to checkpoints

    monkeypatch.setattr(CTTrainer, "_save_optimizer_and_scheduler", with_script)
    with HubServer(tmp_path / "hub") as hub, client_of(hub):
        trainer = make_trainer(clip_set, tmp_path / "out", hub_model_id="nodules")
        assert trainer.hub_model_id == REPO
        trainer.train()
        during = pushed(hub, tmp_path / "during")
        assert "not pushed" not in caplog.text
        assert len(during) == 1
        assert not (during[0] / "zero_to_fp32.py").exists()
        assert load_model(during[0]).training["in_progress"]["epoch"] == 1
        CALIBRATION.write(tmp_path / "out")
        told = trainer.push_to_hub(commit_message="done", license="mit")
        last = pushed(hub, tmp_path / "after")[-1]
        with pytest.raises(CTVideoError, match="does not take language"):
            trainer.push_to_hub(language="en")
    assert counted == [trainer.train_dataset, trainer.eval_dataset], "once, not at every push"
    assert told.commit == last.name
    assert read_calibration(last) == CALIBRATION
    card = (last / "README.md").read_text()
    assert check_card_text(card) == []
    for words_ in ("| starting weights | not stated |", "license: mit", "temperature"):
        assert words_ in card, words_
    assert "in progress" not in card


def test_whole_checkpoints_are_not_published(tmp_path):
    with pytest.raises(CTVideoError, match="hub_strategy is every_save or end"):
        CTTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, push_to_hub=True, hub_strategy="checkpoint"
        )
