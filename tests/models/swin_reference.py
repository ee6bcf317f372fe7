"""Video Swin in the authors' layout, written out pair by pair to check the order of everything.

Nothing here is shared with torchvision's code or ours: attention is a loop over windows, an offset
is looked up by its three coordinates, and who may attend to whom is told by coordinates too.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

__all__ = ["authors_logits"]


def _norm(state, name, video):
    return F.layer_norm(video, video.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _line(state, name, video):
    return F.linear(video, state[f"{name}.weight"], state.get(f"{name}.bias"))


def _attend(state, name, tokens, places, groups, window, heads):
    """Attention among the tokens of one window; ``places`` are coordinates inside the window."""
    count, width = tokens.shape
    query, key, value = _line(state, f"{name}.qkv", tokens).reshape(count, 3, heads, -1).unbind(1)
    table = state[f"{name}.relative_position_bias_table"]
    table = table.reshape(*(2 * size - 1 for size in window), heads)
    result = torch.zeros(count, heads, width // heads)
    for one in range(count):
        scores = torch.full((count, heads), -torch.inf)
        for other in range(count):
            if groups[one] == groups[other]:
                steps = [
                    p - q + w - 1
                    for p, q, w in zip(places[one], places[other], window, strict=True)
                ]
                product = (query[one] * key[other]).sum(-1) / (width // heads) ** 0.5
                scores[other] = product + table[tuple(steps)]
        result[one] = (scores.softmax(0)[..., None] * value).sum(0)
    return _line(state, f"{name}.proj", result.reshape(count, width))


def _block(state, name, video, window, shifted, heads):
    """(t, h, w, channel) -> the same, with windows moved by half of their size where ``shifted``.

    A grid that is not larger than the window along an axis is one window there and not moved.
    """
    normed, grid = _norm(state, f"{name}.norm1", video), video.shape[:3]
    used = [min(size, extent) for size, extent in zip(window, grid, strict=True)]
    moved = [
        size // 2 if shifted and extent > size else 0
        for size, extent in zip(window, grid, strict=True)
    ]
    padded = [-(-extent // size) * size for extent, size in zip(grid, used, strict=True)]
    attended = torch.zeros_like(video)
    for corner in itertools.product(*(range(0, p, s) for p, s in zip(padded, used, strict=True))):
        places = list(itertools.product(*(range(size) for size in used)))
        tokens, groups, targets = [], [], []
        for place in places:
            rolled = [c + p for c, p in zip(corner, place, strict=True)]
            there = [(r + m) % p for r, m, p in zip(rolled, moved, padded, strict=True)]
            inside = all(t < g for t, g in zip(there, grid, strict=True))
            tokens.append(normed[tuple(there)] if inside else torch.zeros(video.shape[3]))
            targets.append(tuple(there) if inside else None)
            # Patches that the move brought round the edge keep to themselves.
            groups.append(tuple(r + m >= p for r, m, p in zip(rolled, moved, padded, strict=True)))
        out = _attend(state, f"{name}.attn", torch.stack(tokens), places, groups, window, heads)
        for row, target in zip(out, targets, strict=True):
            if target is not None:
                attended[target] = row
    video = video + attended
    inner = F.gelu(_line(state, f"{name}.mlp.fc1", _norm(state, f"{name}.norm2", video)))
    return video + _line(state, f"{name}.mlp.fc2", inner)


def _merge(state, name, video):
    """Four neighbours become one: (row, column) = (0, 0), (1, 0), (0, 1), (1, 1)."""
    frames, rows, columns, width = video.shape
    even = torch.zeros(frames, rows + rows % 2, columns + columns % 2, width)
    even[:, :rows, :columns] = video
    order = ((0, 0), (1, 0), (0, 1), (1, 1))
    parts = [even[:, row::2, column::2] for row, column in order]
    return _line(state, f"{name}.reduction", _norm(state, f"{name}.norm", torch.cat(parts, -1)))


def authors_logits(state, clip, *, patch, window, depths, heads):
    """Logits of one clip (channel, frame, row, column) whose sides are multiples of ``patch``."""
    net = {key.removeprefix("backbone."): value for key, value in state.items()}
    weight, bias = net["patch_embed.proj.weight"], net["patch_embed.proj.bias"]
    video = F.conv3d(clip[None], weight, bias, stride=tuple(patch))[0].permute(1, 2, 3, 0)
    video = _norm(net, "patch_embed.norm", video)
    for stage, depth in enumerate(depths):
        for index in range(depth):
            name = f"layers.{stage}.blocks.{index}"
            video = _block(net, name, video, window, index % 2 == 1, heads[stage])
        if stage < len(depths) - 1:
            video = _merge(net, f"layers.{stage}.downsample", video)
    pooled = _norm(net, "norm", video).mean((0, 1, 2))
    return _line(net, "cls_head.fc_cls", pooled)
