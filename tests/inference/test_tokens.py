"""Attention networks: contributions lie where their tokens do, add up, and point at what counts."""

import numpy as np
import pytest
import torch

from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference import CTVideoPipeline, LoadedModel
from ct_video_hf.inference.cells import token_cells
from ct_video_hf.inference.evidence import way_of
from ct_video_hf.inference.tokens import TOKENS, _forward, _on_grid, token_contributions
from ct_video_hf.models import CTVideoProcessor, create_model
from ct_video_hf.models.transformers_video import create_video_model
from tests.models.backbone_cases import tiny_model
from tests.support.prediction import volume_of
from tests.support.transformers_models import CONFIGS, video_model_folder

OURS = ("mvit_b_32x3", "mvit_v2_s", "swin3d_t")
FRAMES, SIZE, PATCH = 8, 32, 8


def _model(name, folder):
    """A small network with at least 4 x 4 first tokens in a plane."""
    torch.manual_seed(0)
    if name in OURS:
        stochastic = {"stochastic_depth": 0.0, "dropout": 0.0}
        return tiny_model(name, num_frames=FRAMES, image_size=SIZE, **stochastic)
    sizes = {"tubelet_size": [2, PATCH, PATCH]} if name == "vivit" else {"patch_size": PATCH}
    sizes |= {"frames_per_clip" if name == "vjepa2" else "num_frames": FRAMES}
    video_model_folder(name, folder, **sizes)
    return create_video_model(folder, 1, weights="none").requires_grad_(False)


def _processor(**more):
    fields = {"size": SIZE, "crop_size": None, "num_frames": FRAMES, "windows": [[-400, 1200]]}
    return CTVideoProcessor(**(fields | {"mean": [0.3] * 3, "std": [0.3] * 3} | more))


@pytest.mark.parametrize("name", [*OURS, *CONFIGS])
def test_contributions_lie_where_their_tokens_do(name, tmp_path):
    """A lit patch changes its own token, and its cell is where it was lit."""
    model = _model(name, tmp_path)
    frame, row, column = 5, 18, 10
    dark = torch.zeros(1, FRAMES, 3, SIZE, SIZE)
    lit = dark.clone()
    lit[:, frame, :, row, column] = 1.0
    with torch.no_grad():
        _, before = _forward(model, dark)
        _, after = _forward(model, lit)
    change = _on_grid((after - before).abs().sum(-1), model.config, lit.shape)[0, 0]
    (cells,) = token_cells(model.config, change.shape)
    weight = change / change.sum()
    for axis, (places, true) in enumerate(
        zip((cells.frames, cells.rows, cells.columns), (frame, row, column), strict=True)
    ):
        along = weight.sum([other for other in range(3) if other != axis]).numpy()
        assert abs(places[along.argmax()] - true) <= np.diff(places).mean() / 2
        assert len(places) == change.shape[axis]


@pytest.mark.parametrize("name", [*OURS, *CONFIGS])
def test_contributions_add_up_to_what_the_clip_gains(name, tmp_path):
    """Completeness: all of them are the logit minus that of an even clip of the same mean."""
    model = _model(name, tmp_path)
    clips = torch.rand(1, FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    clips[0, 3:6, :, 8:24, 8:16] += 10.0
    even = clips.mean((1, 3, 4), keepdim=True).expand_as(clips)
    with torch.no_grad():
        expected = model(pixel_values=clips).logits[:, 0]
        gain = expected - model(pixel_values=even).logits[:, 0]
    logits, values = token_contributions(model, clips, 0, steps=60)
    torch.testing.assert_close(logits[:, 0], expected)
    kept = values.sum((1, 2, 3, 4))
    torch.testing.assert_close(kept, gain, rtol=0.03, atol=1e-4)
    assert gain.abs() > 5e-4


def _scan(rng, positive):
    """Noise, a dark ball, and in a positive scan a bright one; int16 HU, and its centre."""
    hu = rng.normal(-800, 60, (FRAMES, SIZE, SIZE))
    bright, dark = rng.uniform([1, 5, 5], [FRAMES - 2, SIZE - 6, SIZE - 6], (2, 3))
    for centre, change in ((dark, -200), (bright, 900 * positive)):
        places = zip(np.indices(hu.shape), centre, (1.5, 4, 4), strict=True)
        hu[sum(((index - middle) / width) ** 2 for index, middle, width in places) < 1] += change
    return np.clip(hu, -1024, 2000).astype(np.int16), bright


def _trained(model, steps):
    """Trained to tell scans with a bright ball."""
    rng, processor = np.random.default_rng(0), _processor()
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)
    for _ in range(steps):
        labels = rng.integers(0, 2, 16)
        clips = np.stack([_scan(rng, bool(label))[0] for label in labels])
        logits = model(pixel_values=processor.to_pixel_values(clips)).logits[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.tensor(labels, dtype=torch.float32)
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["timesformer", "swin3d_t"])
def test_a_trained_network_points_at_what_it_learned(name, tmp_path):
    """Chance is about one in six: half a cell and the ball's width of the whole clip."""
    torch.manual_seed(0)
    if name == "swin3d_t":
        sizes = {"width": 16, "depths": [2, 2], "heads": [1, 2], "window": [2, 3, 3]}
        model = create_model(
            name, num_frames=FRAMES, image_size=SIZE, stochastic_depth=0.0, dropout=0.0, **sizes
        )
    else:
        folder = video_model_folder(
            name, tmp_path, patch_size=PATCH, num_frames=FRAMES, hidden_size=32
        )
        model = create_video_model(folder, 1, weights="none")
    model = _trained(model, 120)
    predict = CTVideoPipeline(LoadedModel(model, _processor(), name), device="cpu")
    rng, hits = np.random.default_rng(1), []
    for _ in range(20):
        hu, centre = _scan(rng, True)
        (best,) = predict.saliency(volume_of(hu)).most_suspicious(1)
        place = np.array([best["index"], best["row"], best["column"]])
        hits.append(bool((np.abs(place - centre) <= (2.5, 8, 8)).all()))
    assert np.mean(hits) >= 0.7


def test_of_many_clips_the_most_suspicious_are_explained(tmp_path):
    model = _model("videomae", tmp_path)
    processor = _processor(stride=4)
    predict = CTVideoPipeline(LoadedModel(model, processor, "many"), device="cpu")
    hu = np.concatenate([_scan(np.random.default_rng(n), n % 2 == 0)[0] for n in range(6)])
    found = predict.saliency(volume_of(hu))
    result = predict(volume_of(hu))
    assert found.method == TOKENS
    assert "eager" in found.backend
    assert [clip["start"] for clip in found.clips] == list(range(0, 41, 4))
    assert [clip["score"] for clip in found.clips] == pytest.approx(
        [clip["score"] for clip in result["clips"]], abs=1e-6
    )
    left = [clip["score"] for clip in found.clips if clip["explained"] is None]
    kept = [clip["score"] for clip in found.clips if clip["explained"] is not None]
    assert (len(kept), len(left)) == (8, 3)
    assert min(kept) >= max(left)
    assert found.values.max() > 0


def test_a_network_of_another_kind_is_refused():
    class Other(torch.nn.Module):
        class config:
            model_type = "resnet4d"

    with pytest.raises(CTVideoError, match=r"resnet4d.*VideoMAE"):
        way_of(Other())
