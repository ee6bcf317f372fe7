"""Cards of the registry: one a backbone, up to date, sound, and without results."""

from __future__ import annotations

from pathlib import Path

import pytest

from ct_video_hf.cli import main
from ct_video_hf.hub import check_card_text
from ct_video_hf.hub.card_registry import render_registry_card
from ct_video_hf.models import get_backbone, list_backbones

CARDS = Path(__file__).parents[2] / "model_cards"


@pytest.mark.parametrize("name", list_backbones())
def test_the_card_is_up_to_date_and_sound(name):
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert text == render_registry_card(name), "ct-video-hf card --registry model_cards"
    assert check_card_text(text) == []
    assert "## Results\n\nNot measured.\n" in text
    for record in get_backbone(name).weights.values():
        assert record.weight_license in text
        assert record.origin in text


def test_no_card_without_a_backbone():
    assert {path.stem for path in CARDS.glob("*.md")} == {"README", *list_backbones()}


def test_wrong_use(tmp_path):
    for words in ([], [str(tmp_path), "--registry", str(tmp_path)]):
        with pytest.raises(SystemExit) as leave:
            main(["card", *words])
        assert leave.value.code == 2
