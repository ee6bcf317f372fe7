"""MViT and Video Swin: positions for other clips, layouts of windows, chance while training."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForVideoClassification

from ct_video_hf.inference.localization import clip_forward
from ct_video_hf.models import create_model, get_backbone
from ct_video_hf.models.positions import resample_grid, square_side
from ct_video_hf.models.weights import load_published, map_keys, to_our_keys
from ct_video_hf.models.window_attention import relative_position_index

from .backbone_cases import enliven, tiny_clip, tiny_model, without_chance
from .originals import all_originals
from .originals.mvit_v2 import build as build_mvit_v2
from .swin_reference import authors_logits

MVITS = ["mvit_b_32x3", "mvit_v2_s"]
ATTENTION = [*MVITS, "swin3d_t"]
every_mvit = pytest.mark.parametrize("name", MVITS)
every_network = pytest.mark.parametrize("name", ATTENTION)
ORIGINALS = all_originals()


def original_of(name):
    return enliven(ORIGINALS[name].small()).eval()


# ---- resampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(7, 7), (56, 40), (5, 16), (31, 13), (2, 9), (9, 1)])
def test_a_line_of_positions(old, new):
    values = torch.randn(old, 4)
    if old == new:
        assert torch.equal(resample_grid(values, (new,)), values)
    constant = torch.full((old, 3), 0.7)
    torch.testing.assert_close(resample_grid(constant, (new,)), torch.full((new, 3), 0.7))
    # A ramp over the extent 0..1, sampled in the middle of each share, stays that ramp.
    ramp = ((torch.arange(old) + 0.5) / old)[:, None]
    expected = ((torch.arange(new) + 0.5) / new)[:, None]
    torch.testing.assert_close(resample_grid(ramp, (new,)), expected)


def test_axes_do_not_mix():
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(4.0), indexing="ij")
    grid = torch.stack([rows, columns, rows * columns], -1)
    found = resample_grid(grid, (3, 8))
    torch.testing.assert_close(found[..., 0], torch.tensor([0.5, 2.5, 4.5])[:, None].expand(3, 8))
    torch.testing.assert_close(found[..., 1], (torch.arange(8) / 2 - 0.25).expand(3, 8))
    torch.testing.assert_close(found[..., 2], found[..., 0] * found[..., 1])
    assert resample_grid(grid.half(), (3, 8)).dtype == torch.float16
    assert resample_grid(torch.ones(1, 2), (5,)).shape == (5, 2)
    with pytest.raises(ValueError, match="2 grid axes"):
        resample_grid(grid, (3,))
    with pytest.raises(ValueError, match=r"table has 12 positions, which are no square"):
        square_side(12, "table")


# ---- MViT: other clips ---------------------------------------------------------------------------


@every_mvit
def test_published_weights_for_another_clip(name, caplog):
    original, sizes = original_of(name), ORIGINALS[name].sizes
    other = create_model(name, 5, **(sizes | {"num_frames": 16, "image_size": 160}))
    with caplog.at_level("INFO"):
        assert load_published(other, original.state_dict(), get_backbone(name)) == []
    assert "interpolated" in caplog.text
    with torch.no_grad():
        found = other(torch.randn(1, 16, 3, 160, 160), output_hidden_states=True)
    assert torch.isfinite(found.logits).all()
    assert found.hidden_states[0].shape[2:] == (8, 40, 40)
    caplog.clear()
    same = create_model(name, 5, **sizes)
    with caplog.at_level("INFO"):
        load_published(same, original.state_dict(), get_backbone(name))
    assert "interpolated" not in caplog.text


@every_mvit
def test_a_saved_model_for_another_clip(name, tmp_path):
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    other = create_model(name, weights=tmp_path, num_frames=10, image_size=72)
    assert other.config.num_frames == 10
    with torch.no_grad():
        assert torch.isfinite(other(torch.randn(1, 10, 3, 72, 72)).logits).all()
    again = create_model(name, weights=tmp_path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_embeddings_of_mvit_keep_their_places():
    """Positions that are a ramp over time, rows or columns are the same ramp in another clip."""
    stem = "backbone.blocks.0.cls_positional_encoding.pos_embed_"
    name, sizes = "mvit_b_32x3", ORIGINALS["mvit_b_32x3"].sizes
    state = create_model(name, 5, **sizes).state_dict()
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    plane = torch.stack([(rows + 0.5) / 16, (columns + 0.5) / 16], -1).reshape(1, 256, 2)
    state[f"{stem}spatial"] = plane.repeat(1, 1, 8)
    state[f"{stem}temporal"] = ((torch.arange(3.0) + 0.5) / 3)[None, :, None].repeat(1, 1, 16)
    other = create_model(name, 5, **(sizes | {"num_frames": 8, "image_size": 48}))
    load_published(other, state, get_backbone(name))
    found = other.state_dict()
    grid = found[f"{stem}spatial"].reshape(12, 12, 16)
    middles = (torch.arange(12.0) + 0.5) / 12
    torch.testing.assert_close(grid[..., 0], middles[:, None].expand(12, 12))
    torch.testing.assert_close(grid[..., 1], middles.expand(12, 12))
    expected = ((torch.arange(4.0) + 0.5) / 4)[:, None].expand(4, 16)
    torch.testing.assert_close(found[f"{stem}temporal"][0], expected)
    assert torch.equal(found[f"{stem}class"], state[f"{stem}class"])


def test_mvit_v2_for_a_smaller_clip_is_what_the_original_makes_of_it():
    """torchvision resizes its tables while it runs; ours, resized once, give the same logits."""
    original = enliven(build_mvit_v2(12, 96)).eval()
    sizes = ORIGINALS["mvit_v2_s"].sizes | {"num_frames": 8, "image_size": 64}
    ours = create_model("mvit_v2_s", 5, **sizes)
    load_published(ours, original.state_dict(), get_backbone("mvit_v2_s"))
    original.pos_encoding.temporal_size, original.pos_encoding.spatial_size = 4, (16, 16)
    pixels = torch.randn(2, 8, 3, 64, 64)
    with torch.no_grad():
        expected = original(pixels.transpose(1, 2))
        torch.testing.assert_close(ours(pixels).logits, expected, rtol=0, atol=1e-5)


@every_mvit
def test_another_clip_is_refused_and_the_way_named(name):
    model = tiny_model(name)
    with torch.no_grad():
        model(torch.randn(1, 3, 3, 29, 31))  # the same grid of patches
    for clip, said in {(8, 32, 32): "3 to 4 frames", (4, 32, 64): "29 to 32 rows"}.items():
        with pytest.raises(ValueError, match=said) as caught:
            model(torch.randn(1, clip[0], 3, *clip[1:]))
        assert "make the model with num_frames and image_size" in str(caught.value)
    with pytest.raises(ValueError, match=r"at least 3 frames .*make the model with num_frames"):
        model(torch.randn(1, 2, 3, 32, 32))


def test_positions_that_cannot_be_resized_are_refused():
    sizes = ORIGINALS["mvit_b_32x3"].sizes
    state = original_of("mvit_b_32x3").state_dict()
    key = "cls_positional_encoding.pos_embed_spatial"
    state[key] = state[key][:, :200]
    with pytest.raises(ValueError, match=r"pos_embed_spatial has 200 positions"):
        load_published(create_model("mvit_b_32x3", 5, **sizes), state, get_backbone("mvit_b_32x3"))
    with pytest.raises(ValueError, match="too few for 4 stages"):
        create_model("mvit_v2_s", image_size=8)
    with pytest.raises(ValueError, match="odd sizes are expected"):
        create_model("mvit_b_32x3", pool_kernel=[2, 3, 3])


# ---- Video Swin ----------------------------------------------------------------------------------

SWIN = get_backbone("swin3d_t")
AUTHORS = SWIN.layouts[0]
SMALL = {"width": 8, "depths": [2, 2], "heads": [1, 2], "window": [2, 3, 3]}


def authors_state(model):
    """A model's weights as the authors' release names them."""
    back = tuple((ours, theirs) for theirs, ours in AUTHORS.key_map)
    return map_keys(model.state_dict(), (*back, ("backbone.norm.", "backbone.norm.")))


def test_the_authors_layout_has_the_keys_of_the_release():
    with torch.device("meta"):
        state = authors_state(create_model("swin3d_t", 400))
    assert len(state) == 4 + 12 * 14 + 3 * 3 + 4
    shapes = {
        "backbone.patch_embed.proj.weight": (96, 3, 2, 4, 4),
        "backbone.patch_embed.norm.bias": (96,),
        "backbone.layers.0.blocks.1.attn.relative_position_bias_table": (15 * 13 * 13, 3),
        "backbone.layers.2.blocks.5.attn.relative_position_index": (392, 392),
        "backbone.layers.1.blocks.0.attn.qkv.weight": (576, 192),
        "backbone.layers.3.blocks.1.mlp.fc1.weight": (3072, 768),
        "backbone.layers.3.blocks.1.mlp.fc2.bias": (768,),
        "backbone.layers.2.downsample.reduction.weight": (768, 1536),
        "backbone.layers.0.downsample.norm.weight": (384,),
        "backbone.norm.weight": (768,),
        "cls_head.fc_cls.weight": (400, 768),
    }
    for key, shape in shapes.items():
        assert tuple(state[key].shape) == shape, key


@pytest.mark.parametrize(
    ("clip", "small_grids"), [((8, 28, 40), "published"), ((4, 16, 20), "geometric")]
)
def test_the_authors_network_written_out(clip, small_grids):
    """Windows, their moves, offsets, padding and merging as the authors' code orders them."""
    model = enliven(create_model("swin3d_t", 5, **SMALL))
    state = authors_state(model)
    ours = create_model("swin3d_t", 5, **SMALL, small_grid_offsets=small_grids)
    assert load_published(ours, state, SWIN) == []
    pixels = torch.randn(1, clip[0], 3, *clip[1:])
    with torch.no_grad():
        found = ours(pixels).logits[0]
        expected = authors_logits(
            state,
            pixels[0].transpose(0, 1),
            patch=(2, 4, 4),
            window=SMALL["window"],
            depths=SMALL["depths"],
            heads=SMALL["heads"],
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_authors_layout_is_strict(tmp_path):
    model = enliven(create_model("swin3d_t", 5, **SMALL))
    state = authors_state(model)
    torch.save({"meta": {"epoch": 30}, "state_dict": state}, tmp_path / "authors.pth")
    loaded = create_model("swin3d_t", 5, weights=tmp_path / "authors.pth", **SMALL)
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    index = "backbone.layers.1.blocks.0.attn.relative_position_index"
    fresh = create_model("swin3d_t", 5, **SMALL)
    lacking = {key: value for key, value in state.items() if key != index}
    with pytest.raises(ValueError, match=r"Missing: .*layers\.0\.attn\.relative_position_index"):
        load_published(fresh, lacking, SWIN)
    turned = {**state, index: state[index].T.contiguous()}
    with pytest.raises(ValueError, match=r"lists the offsets of no window by frame, row and"):
        load_published(fresh, turned, SWIN)
    with pytest.raises(ValueError, match=r"Unexpected: backbone\.absolute_pos_embed"):
        load_published(fresh, {**state, "backbone.absolute_pos_embed": torch.zeros(1)}, SWIN)


def test_the_index_counts_offsets_by_frame_row_and_column():
    window = [2, 3, 4]
    index = relative_position_index(window)
    places = [(t, h, w) for t in range(2) for h in range(3) for w in range(4)]
    for one, query in enumerate(places):
        for other, key in enumerate(places):
            t, h, w = (q - k + n - 1 for q, k, n in zip(query, key, window, strict=True))
            assert index[one, other] == (t * 5 + h) * 7 + w


def test_another_window_interpolates_tables(caplog):
    """A table that is a ramp over frames, rows or columns stays that ramp."""
    state = create_model("swin3d_t", 5, **SMALL).state_dict()
    tables = [key for key in state if key.endswith("bias_table")]
    for key in tables:
        heads = state[key].shape[1]
        axes = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in (3, 5, 5)), indexing="ij")
        ramps = torch.stack([*axes, torch.full((3, 5, 5), 0.3)], -1).reshape(75, 4)
        state[key] = ramps[:, -heads:] if heads < 3 else ramps[:, :heads]
    wider = dict(SMALL, window=[4, 5, 5])
    other = create_model("swin3d_t", 5, **wider)
    with caplog.at_level("INFO"):
        load_published(other, state, SWIN)
    assert "4 tables of relative positions interpolated from windows of [2, 3, 3]" in caplog.text
    found = other.state_dict()
    for key in tables:
        assert found[key].shape[0] == 7 * 9 * 9
        torch.testing.assert_close(found[key][:, -1], torch.full((567,), 0.3))
        if found[key].shape[1] == 2:
            columns = ((torch.arange(9.0) + 0.5) / 9).expand(7, 9, 9)
            torch.testing.assert_close(found[key][:, 0].reshape(7, 9, 9), columns)
        index = found[key.replace("bias_table", "index")]
        assert torch.equal(index, relative_position_index([4, 5, 5]))
    with torch.no_grad():
        assert torch.isfinite(other(torch.randn(1, 12, 3, 40, 40)).logits).all()


def test_offsets_in_grids_smaller_than_the_window():
    clip = torch.randn(1, 4, 3, 16, 16)  # stage 2: 2 x 2 patches in windows of 3 x 3
    published = enliven(create_model("swin3d_t", 5, **SMALL))
    geometric = create_model("swin3d_t", 5, **SMALL, small_grid_offsets="geometric")
    geometric.load_state_dict(published.state_dict())
    with torch.no_grad():
        assert (published(clip).logits - geometric(clip).logits).abs().max() > 1e-3
        large = torch.randn(1, 4, 3, 24, 24)
        torch.testing.assert_close(published(large).logits, geometric(large).logits)
    attention = geometric.backbone.blocks[2].layers[0].attn
    bias = attention.get_relative_position_bias([2, 2, 2])[0]
    table = attention.relative_position_bias_table.reshape(3, 5, 5, 2)
    places = [(t, h, w) for t in range(2) for h in range(2) for w in range(2)]
    for one, query in enumerate(places):
        for other, key in enumerate(places):
            t, h, w = (q - k for q, k in zip(query, key, strict=True))
            assert torch.equal(bias[:, one, other], table[t + 1, h + 2, w + 2])
    with pytest.raises(ValueError, match="allowed: published, geometric"):
        create_model("swin3d_t", small_grid_offsets="none")


# ---- all three -----------------------------------------------------------------------------------


@every_network
def test_all_gradients_are_the_originals(name):
    original = without_chance(original_of(name)).train()
    ours = without_chance(create_model(name, 5, **ORIGINALS[name].sizes)).train()
    load_published(ours, original.state_dict(), get_backbone(name))
    frames, rows, columns = ORIGINALS[name].clips[1]
    pixels = torch.randn(2, frames, 3, rows, columns)
    original(pixels.transpose(1, 2)).square().sum().backward()
    ours(pixels).logits.square().sum().backward()
    gradients = {key: parameter.grad for key, parameter in original.named_parameters()}
    expected = to_our_keys(gradients, get_backbone(name), list(ours.state_dict()))
    scale = max(gradient.abs().max() for gradient in gradients.values())
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[key], rtol=1e-3, atol=1e-6 * scale.item(), msg=key
        )


@every_network
def test_stochastic_depth_only_in_training(name):
    model = tiny_model(name, dropout=0.0, stochastic_depth=0.5)
    clip = tiny_clip(name, model=model)
    with torch.no_grad():
        assert torch.equal(model(clip).logits, model(clip).logits)
        model.train()
        draws = {tuple(model(clip).logits.flatten().tolist()) for _ in range(4)}
        assert len(draws) > 1
        calm = tiny_model(name, dropout=0.0, stochastic_depth=0.0).train()
        assert torch.equal(calm(clip).logits, calm.eval()(clip).logits)
    model(clip, labels=torch.tensor([0.0, 1.0])).loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["mvit_v2_s", "swin3d_t"])
def test_stochastic_depth_rises_as_in_the_original(name):
    def rates(network):
        return [m.p for m in network.modules() if type(m).__name__ == "StochasticDepth"]

    rate = get_backbone(name).config_class().stochastic_depth
    with torch.device("meta"):
        original, ours = ORIGINALS[name].full(), create_model(name)
    assert rates(ours) == pytest.approx(rates(original))
    assert max(rates(ours)) == pytest.approx(rate)


@every_network
def test_recomputed_blocks_draw_the_same_chance(name):
    gradients = []
    for saving in (False, True):
        model = tiny_model(name, dropout=0.0, stochastic_depth=0.5).train()
        if saving:
            model.activation_checkpointing_enable()
        torch.manual_seed(5)
        clip = tiny_clip(name, model=model)
        model(clip, labels=torch.tensor([1.0, 0.0])).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@every_network
def test_features_lie_on_the_networks_grids(name):
    model = tiny_model(name)
    clip = tiny_clip(name, model=model)
    with torch.no_grad():
        found = model.backbone(clip, output_hidden_states=True)
    frames = clip.shape[1] // 2
    widths = [8, 8, 16, 32, 64]  # after the stem and after each stage
    if name == "mvit_b_32x3":  # it widens at the end of a stage, the others at its start
        widths = [8, 16, 32, 64, 64]
    sides = [8, 8, 4, 2, 1]
    expected = [(2, width, frames, side, side) for width, side in zip(widths, sides, strict=True)]
    assert [tuple(state.shape) for state in found.hidden_states] == expected
    assert found.last_hidden_state.shape == expected[-1]
    assert found.pooled_grid.shape == (2, 64, 1, 1, 1)
    mean = found.last_hidden_state.mean((2, 3, 4))
    assert torch.allclose(found.pooler_output, mean, atol=1e-6) == (name == "swin3d_t")


@every_mvit
def test_all_tokens_may_decide_instead_of_the_class_token(name):
    token = tiny_model(name)
    clip = tiny_clip(name, model=token)
    for kind in ("mean", "max"):
        model = tiny_model(name, head_pool=kind).train()
        model.load_state_dict(token.state_dict())
        found = without_chance(model).backbone(clip)
        last = found.last_hidden_state
        pooled = last.mean((2, 3, 4)) if kind == "mean" else last.amax((2, 3, 4))
        torch.testing.assert_close(found.pooler_output, pooled)
        found.pooler_output[:, ::2].sum().backward()
        for key, parameter in model.backbone.named_parameters():
            unseen = key.endswith(("norm_k.bias", "pool_k.norm_act.0.bias"))
            assert unseen or torch.count_nonzero(parameter.grad) > 0, key


@every_mvit
def test_what_a_class_token_looks_at(name):
    """The activation is that of what the last attention sees, and the logits stay exact."""
    model = tiny_model(name, image_size=64)
    clip = torch.rand(2, 4, 3, 64, 64)
    logits, along = clip_forward(model, clip, 0)
    with torch.no_grad():
        expected = model(clip, output_hidden_states=True)
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=1e-6)
    assert along.shape == (2, 4)
    assert along.max() > 1e-3 * logits.abs().max(), "before a norm it would be zero"
    features, grid, pooled = model.backbone.explain(clip)
    torch.testing.assert_close(features.pooler_output, expected.pooler_output)
    assert grid.shape == expected.hidden_states[-1].shape
    (slope,) = torch.autograd.grad(model.classify(pooled).sum(), grid)
    step = 1e-3 * torch.randn_like(grid)
    norm = model.backbone.blocks[-1][-1].norm1
    pushed = torch.nn.functional.pad(step.flatten(2).transpose(1, 2), (0, 0, 1, 0))
    hook = norm.register_forward_hook(lambda _, given, normed: normed + pushed)
    with torch.no_grad():
        change = model(clip).logits.sum() - expected.logits.sum()
    hook.remove()
    torch.testing.assert_close(change, (slope * step).sum(), rtol=0.05, atol=1e-6)


@every_network
def test_lost_positions_start_as_in_the_original(name, tmp_path):
    """Positions, tokens and indices that a checkpoint lacks are no uninitialised memory."""
    parts = ("pos_embed", "rel_pos", "relative_position", "class_token", "cls_token")
    model = tiny_model(name)
    whole = model.state_dict()
    kept = {key: value for key, value in whole.items() if not any(part in key for part in parts)}
    assert len(kept) < len(whole)
    model.save_pretrained(tmp_path, state_dict=dict(kept))
    again = AutoModelForVideoClassification.from_pretrained(tmp_path).state_dict()
    for key, value in whole.items():
        if key in kept or not value.is_floating_point():
            assert torch.equal(again[key], value), key
        else:
            assert 0 < again[key].abs().max() < 0.12, key
            if value.numel() > 200:
                assert again[key].std() == pytest.approx(0.02, rel=0.25), key


@pytest.mark.slow
@pytest.mark.parametrize("name", MVITS)
def test_the_full_network_for_another_clip(name):
    original = ORIGINALS[name].full().state_dict()
    ours = create_model(name, 400, num_frames=16, image_size=160)
    assert load_published(ours, original, get_backbone(name)) == []
    with torch.no_grad():
        logits = ours(torch.rand(1, 16, 3, 160, 160)).logits
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
