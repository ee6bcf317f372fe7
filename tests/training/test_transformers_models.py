"""VideoMAE, V-JEPA 2, TimeSformer and ViViT of transformers on the same road as our networks."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForVideoClassification, AutoVideoProcessor
from transformers.models.timesformer.video_processing_timesformer import TimesformerVideoProcessor
from transformers.models.videomae.video_processing_videomae import VideoMAEVideoProcessor
from transformers.models.vivit.video_processing_vivit import VivitVideoProcessor
from transformers.models.vjepa2.video_processing_vjepa2 import VJEPA2VideoProcessor

import ct_video_hf
from ct_video_hf.cli import main
from ct_video_hf.hub import check_model_card, check_model_folder, write_model_card
from ct_video_hf.inference import ModelLoadError, load_model
from ct_video_hf.models import create_model, processor_for
from ct_video_hf.models.transformers_processor import origin_of
from ct_video_hf.training import run
from ct_video_hf.training.lora import add_lora, merge_lora
from tests.support.prediction import chest_hu, tiny_model, volume_of
from tests.support.transformers_models import (
    CONFIGS,
    FRAMES,
    PROCESSORS,
    SIZE,
    video_model_folder,
)

FAMILIES = sorted(CONFIGS)
every_family = pytest.mark.parametrize("family", FAMILIES)
OWN_PROCESSORS = {
    "timesformer": TimesformerVideoProcessor,
    "videomae": VideoMAEVideoProcessor,
    "vivit": VivitVideoProcessor,
    "vjepa2": VJEPA2VideoProcessor,
}
OPTIONS = {"epochs": 1, "max_steps": 2, "batch_size": 4, "resamples": 20, "lr": 1e-3,
           "disable_tqdm": True, "use_cpu": True}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One published model of each family."""
    root = tmp_path_factory.mktemp("published")
    return {
        family: video_model_folder(family, root / f"base_{family}", license="cc-by-nc-4.0")
        for family in FAMILIES
    }


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, folders, clip_set, tmp_path_factory):
    """A real run of two steps: the family, and the finished folder with its metrics."""
    out = tmp_path_factory.mktemp("runs") / f"finetuned_{request.param}"
    result = run(
        data=str(clip_set),
        output=str(out),
        backbone=str(folders[request.param]),
        write_card=write_model_card,
        command=["ct-video-hf", "train", "--backbone", str(folders[request.param])],
        **OPTIONS,
    )
    return SimpleNamespace(family=request.param, folder=out, metrics=result.metrics)


# ---- training, and the folder that it leaves --------------------------------------------------


def test_the_finished_folder_is_a_model_of_transformers(trained, folders):
    config = json.loads((trained.folder / "config.json").read_text())
    assert config["model_type"] == trained.family
    assert (config["id2label"], config["problem_type"]) == (
        {"0": "LABEL_0"},
        "multi_label_classification",
    )
    assert config["study_aggregation"] == "max"
    assert check_model_folder(trained.folder) == []
    code = {path.name for path in trained.folder.glob("*.py")}
    assert code == {"processing_ct.py", "hu_clips.py"}  # no copy of transformers' own code
    model = AutoModelForVideoClassification.from_pretrained(trained.folder)
    start = AutoModelForVideoClassification.from_pretrained(folders[trained.family])
    body, moved = model.base_model.state_dict(), 0
    for key, value in start.base_model.state_dict().items():
        assert body[key].shape == value.shape
        torch.testing.assert_close(body[key], value, rtol=0, atol=0.02)  # trained weights went in
        moved += int(not torch.equal(body[key], value))
    assert moved > 10  # and went on learning


def test_the_record_and_the_card_say_where_the_weights_come_from(trained):
    record = json.loads((trained.folder / "training_config.json").read_text())
    assert (record["backbone"], record["weights"]) == (f"base_{trained.family}", "saved")
    assert record["backbone_origin"] == {
        "model_type": trained.family,
        "commit": None,
        "license": "cc-by-nc-4.0",
    }
    assert check_model_card(trained.folder) == []
    card = (trained.folder / "README.md").read_text()
    name = "pixel_values_videos" if trained.family == "vjepa2" else "pixel_values"
    for words in (
        f"those of `base_{trained.family}`",
        "| their licence | cc-by-nc-4.0, says their card |",
        f"`{name}` (batch, slices: {FRAMES}, channels: 3, {SIZE}, {SIZE})",
        f"model({name}=clips[",
        "license_name: not-stated",
    ):
        assert words in card, words
    text = "".join(path.read_text() for path in trained.folder.glob("*.json"))
    assert "/tmp" not in text + card


def test_evaluate_gives_the_metrics_of_training(trained, clip_set, capsys):
    assert main(["evaluate", str(trained.folder), str(clip_set), "--json", "--quiet",
                 "--resamples", "20"]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["study/auroc"]["n"] == 7
    for name in ("study/auroc", "clip/auroc"):
        assert found[name]["value"] == pytest.approx(trained.metrics[name]["value"])


def test_the_pipeline_scores_a_scan(trained):
    volume = volume_of(chest_hu(slices=10, size=48))
    result = ct_video_hf.pipeline(trained.folder)(volume)
    processor = AutoVideoProcessor.from_pretrained(trained.folder)
    model = AutoModelForVideoClassification.from_pretrained(trained.folder)
    clips = processor(volume)
    with torch.no_grad():  # as the card shows it, without this package's help
        logits = model(**{model.main_input_name: clips["pixel_values"]}).logits[:, 0]
    scores = [clip["score"] for clip in result["clips"]]
    np.testing.assert_allclose(scores, logits.sigmoid(), atol=1e-6)
    assert result["study_probability"] == pytest.approx(max(scores))
    assert result["model"]["backbone"] == f"base_{trained.family}"
    assert result["key_slices"]


def test_a_finetuned_folder_is_trained_on(trained, clip_set, tmp_path):
    """Its own processor counts then, and its classifier is kept."""
    again = create_model(str(trained.folder))
    before = AutoModelForVideoClassification.from_pretrained(trained.folder)
    for key, value in before.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    wanted = load_model(trained.folder).processor.to_dict()
    assert processor_for(str(trained.folder)).to_dict() == wanted


def test_frozen_and_in_half_precision_like_any_other(folders, clip_set, tmp_path):
    """V-JEPA 2, whose input has another name: frozen body, rates by depth, bf16, random weights."""
    out = tmp_path / "out"
    options = OPTIONS | {"freeze": "backbone", "precision": "bf16", "weights": "none",
                         "gradient_checkpointing": True, "validation_split": "none",
                         "test_split": "none", "max_steps": 1, "layer_decay": 0.75}  # fmt: skip
    result = run(data=str(clip_set), output=str(out), backbone=str(folders["vjepa2"]), **options)
    assert 0 < result.config["trainable_parameters"] < result.config["parameters"]
    assert result.config["weights"] == "none"
    body = AutoModelForVideoClassification.from_pretrained(out).base_model.state_dict()
    start = AutoModelForVideoClassification.from_pretrained(folders["vjepa2"]).base_model
    same = [torch.equal(body[key], value) for key, value in start.state_dict().items()]
    assert not all(same)  # random weights, not the saved ones


@every_family
def test_low_rank_adapters_reach_what_is_called_and_the_whole_head_learns(family, folders):
    model = create_model(str(folders[family])).train()
    clip = torch.rand(2, FRAMES, 3, SIZE, SIZE)
    with torch.no_grad():
        before = model.eval()(pixel_values=clip).logits
    adapted = add_lora(model, 2).train()
    labels = torch.tensor([[1.0], [0.0]])
    adapted(pixel_values=clip, labels=labels).loss.backward()
    learning = {key for key, value in adapted.named_parameters() if value.requires_grad}
    for key, parameter in adapted.named_parameters():
        assert (parameter.grad is not None) is (key in learning), key
    assert any("lora_B" in key for key in learning)
    head = {"vjepa2": "pooler", "videomae": "fc_norm"}.get(family, "classifier")
    assert any(head in key for key in learning)
    with torch.no_grad():
        merged = merge_lora(adapted).eval()
        torch.testing.assert_close(merged(pixel_values=clip).logits, before)
    assert merged.state_dict().keys() == create_model(str(folders[family])).state_dict().keys()


# ---- the model and its input ---------------------------------------------------------------------


@every_family
def test_saved_weights_and_a_new_binary_head(family, folders):
    model = create_model(str(folders[family]))
    saved = AutoModelForVideoClassification.from_pretrained(folders[family])
    body = model.base_model.state_dict()
    for key, value in saved.base_model.state_dict().items():
        assert torch.equal(body[key], value), key
    assert not model.training
    assert model.config.num_labels == 1
    assert model.classifier.weight.shape[0] == 1
    clip, labels = torch.rand(3, FRAMES, 3, SIZE, SIZE), torch.tensor([[1.0], [0.0], [1.0]])
    output = model(pixel_values=clip, labels=labels)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    torch.testing.assert_close(output.loss, bce)
    model.train()(pixel_values=clip, labels=labels).loss.backward()
    for key, parameter in model.named_parameters():  # none is left waiting for its gradient
        assert (parameter.grad is not None) is parameter.requires_grad, key
    model.eval()
    torch.manual_seed(0)
    random = create_model(str(folders[family]), weights="none")
    assert type(random) is type(model)
    assert not all(
        torch.equal(value, body[key]) for key, value in random.base_model.state_dict().items()
    )
    whole = create_model(str(folders[family]), num_labels=7, weights="saved")
    assert torch.equal(whole.classifier.weight, saved.classifier.weight)
    assert whole.config.id2label[3] == "action 3"
    named = create_model(str(folders[family]), id2label={0: "nodule"})
    assert (named.config.num_labels, named.config.label2id) == (1, {"nodule": 0})


@every_family
def test_clips_are_taken_by_our_name_and_checked_at_the_door(family, folders):
    model = create_model(str(folders[family]))
    processor = processor_for(str(folders[family]))
    batch = processor(volume_of(chest_hu(slices=9, size=48)))
    with torch.no_grad():
        expected = model(batch["pixel_values"]).logits
        assert torch.equal(model(**batch).logits, expected)  # with starts and lengths of the clips
        own = model(**{model.main_input_name: batch["pixel_values"]}).logits
        assert torch.equal(own, expected)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
            assert torch.equal(twin(pixel_values=batch["pixel_values"]).logits, expected)
    with pytest.raises(ValueError, match="4 channels where this"):
        model(pixel_values=torch.rand(1, FRAMES, 4, SIZE, SIZE))
    with pytest.raises(ValueError, match=r"\(batch, frames, channels, rows, columns\) is needed"):
        model(pixel_values=torch.rand(FRAMES, 3, SIZE, SIZE))
    allowed = "multiple of" if family == "vjepa2" else f"exactly {FRAMES} frames of {SIZE}x{SIZE}"
    for shape in ((1, FRAMES + 1, 3, SIZE, SIZE), (1, FRAMES, 3, SIZE + 8, SIZE + 8)):
        with pytest.raises(ValueError, match=allowed):
            model(pixel_values=torch.rand(shape))


@every_family
def test_other_clips_where_positions_are_computed_and_a_refusal_where_not(family, folders):
    name = str(folders[family])
    longer, larger = {"num_frames": 8}, {"image_size": 48}
    for change, free in ((longer, ("videomae", "vjepa2")), (larger, ("vjepa2",))):
        frames, side = change.get("num_frames", FRAMES), change.get("image_size", SIZE)
        clip = torch.rand(1, frames, 3, side, side)
        if family in free:
            model = create_model(name, **change)
            kept = AutoModelForVideoClassification.from_pretrained(name).base_model.state_dict()
            for key, value in model.base_model.state_dict().items():
                assert torch.equal(value, kept[key]), key
        else:
            with pytest.raises(ValueError, match=rf"Allowed are frames: .*pixels: {SIZE}x{SIZE}"):
                create_model(name, **change)
            model = create_model(name, weights="none", **change)
        with torch.no_grad():
            assert torch.isfinite(model(pixel_values=clip).logits).all()
    if family != "timesformer":  # which has no tubelets
        with pytest.raises(ValueError, match="frames have to be a multiple of 2 and the sides of"):
            create_model(name, weights="none", num_frames=3)
    with pytest.raises(ValueError, match="sides of 16"):
        create_model(name, weights="none", image_size=40)
    with pytest.raises(ValueError, match="channels: 3"):
        create_model(name, num_channels=1)
    single = create_model(name, weights="none", num_channels=1)
    assert single(pixel_values=torch.rand(1, FRAMES, 1, SIZE, SIZE)).logits.shape == (1, 1)
    with pytest.raises(ValueError, match="no field depth; known: "):
        create_model(name, depth=3)


# ---- the processor -------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("saved", [True, False])
def test_pixels_are_normalised_as_by_transformers_own_processor(family, saved, tmp_path, caplog):
    """0 and 1 of the window are what pixels of 0 and 255 become there."""
    folder = video_model_folder(family, tmp_path / family)
    file = folder / PROCESSORS[family][0]
    own = OWN_PROCESSORS[family]
    caplog.set_level("WARNING")
    if saved:
        theirs = own.from_pretrained(folder)
    else:
        file.unlink()
        theirs = own()
    ours = processor_for(str(folder), windows=[[0, 1000]])
    assert ("no saved processor" in caplog.text) is not saved
    assert (ours.num_frames, ours.plane_size, ours.num_channels) == (FRAMES, SIZE, 3)
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 2, 1, 1, 1).expand(1, 2, 3, 1, 1)
    expected = theirs.rescale_and_normalize(
        ends, theirs.do_rescale, theirs.rescale_factor, theirs.do_normalize, theirs.image_mean,
        theirs.image_std,
    )  # fmt: skip
    hu = np.stack([np.full((SIZE, SIZE), value, np.int16) for value in (-500, 500)] * 2)
    found = ours([hu])["pixel_values"][0, :2, :, :1, :1]
    torch.testing.assert_close(found, expected[0].float(), rtol=1e-5, atol=1e-5)


def test_windows_stride_and_tail_are_the_runs(folders):
    processor = processor_for(
        str(folders["videomae"]), windows=[[-600, 1500], [400, 1000], [40, 400]], stride=2
    )
    assert len(processor.windows) == 3
    assert processor.stride == 2
    np.testing.assert_allclose(processor.mean, [0.485, 0.456, 0.406])


# ---- what is refused ----------------------------------------------------------------------------


def test_other_models_are_refused(folders, tmp_path):
    ours = tmp_path / "ours"
    tiny_model().save_pretrained(ours)
    with pytest.raises(ValueError, match=r"type 'ct_slow'.*name its backbone"):
        create_model(str(ours))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"type 'bert'; taken are VideoMAE \(videomae\), V-JEPA 2"):
        create_model(str(tmp_path / "text"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no config\.json"):
        create_model(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="no Hub id"):
        create_model(str(tmp_path / "nowhere" / "else"))
    with pytest.raises(ValueError, match=r"known: .*slow_r50.* or Hub id"):
        create_model("videomea")
    with pytest.raises(ValueError, match="name that one as the backbone"):
        create_model(str(folders["vivit"]), weights="kinetics")


def test_pickled_weights_are_read_only_as_tensors(folders, tmp_path):
    source = AutoModelForVideoClassification.from_pretrained(folders["vivit"])
    folder = tmp_path / "old"
    source.config.save_pretrained(folder)
    torch.save(source.state_dict(), folder / "pytorch_model.bin")
    model = create_model(str(folder))
    for key, value in source.base_model.state_dict().items():
        assert torch.equal(model.base_model.state_dict()[key], value), key

    class Trap:
        def __reduce__(self):
            return (print, ("code of a checkpoint ran",))

    torch.save({"vivit.trap": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="hold pickled objects beyond tensors"):
        create_model(str(folder))


def test_weights_that_do_not_fill_the_network_are_refused(folders, tmp_path):
    model = AutoModelForVideoClassification.from_pretrained(folders["videomae"])
    state = {key: value for key, value in model.state_dict().items() if "layer.1." not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"do not fit its network. Missing .*layer\.1\."):
        create_model(str(tmp_path))


def test_a_processor_that_does_not_fit_is_refused_before_prediction(trained, tmp_path):
    model, processor = load_model(trained.folder).model, load_model(trained.folder).processor
    model.save_pretrained(tmp_path)
    processor.num_frames = 2 * FRAMES
    processor.save_pretrained(tmp_path)
    if trained.family == "vjepa2":
        load_model(tmp_path)
        return
    with pytest.raises(ModelLoadError, match=f"takes num_frames {FRAMES} and nothing else"):
        load_model(tmp_path)


def test_a_card_without_a_licence_says_so(tmp_path):
    folder = video_model_folder("vivit", tmp_path / "bare")
    assert origin_of(folder) == {"model_type": "vivit", "commit": None, "license": None}
    (folder / "README.md").write_text("---\nlicense: [broken\n---\n")
    assert origin_of(folder)["license"] is None
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: my-terms\n---\n")
    assert origin_of(folder)["license"] == "my-terms"


def test_scores_of_training_and_prediction_agree(trained, clip_set):
    """The table that training wrote, from the model that lies in the folder."""
    table = pd.read_csv(trained.folder / "predictions.csv")
    from ct_video_hf.data import load_ct_dataset
    from ct_video_hf.evaluation.score import score_clips
    from ct_video_hf.training.inputs import clip_dataset

    loaded = load_model(trained.folder)
    dataset = clip_dataset(load_ct_dataset(clip_set, "test"), loaded.processor, train=False)
    again = score_clips(loaded.model, dataset, progress=False)
    np.testing.assert_allclose(again["logit"], table["logit"], atol=1e-5)


def test_a_card_links_the_repository_that_training_started_from(trained, tmp_path):
    folder = shutil.copytree(trained.folder, tmp_path / "model")
    record = json.loads((folder / "training_config.json").read_text())
    record["backbone"] = "user/video-model@v1"
    record["backbone_origin"] |= {"commit": "0123456789abcdef", "license": None}
    (folder / "training_config.json").write_text(json.dumps(record))
    write_model_card(folder)
    assert check_model_card(folder) == []
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "user/video-model"
    assert trained.family in card.data.tags
    assert "those of `user/video-model@v1` at commit `0123456789abcdef`" in card.text
    assert "| their licence | not stated |" in card.text
