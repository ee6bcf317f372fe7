"""Cards of the registry: one a backbone, up to date, sound, and without results."""

from __future__ import annotations

import pytest

from ct_video_hf.cli import main
from ct_video_hf.hub import check_card_text
from ct_video_hf.hub.card_registry import render_registry_card
from ct_video_hf.models import get_backbone, list_backbones
from tests.cli.test_convert import CARDS, how_to_use, registry_row


@pytest.mark.parametrize("name", list_backbones())
def test_the_card_is_up_to_date_and_sound(name):
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert text == render_registry_card(name), "ct-video-hf card --registry model_cards"
    assert check_card_text(text) == []
    assert "## Results\n\nNot measured.\n" in text
    for record in get_backbone(name).weights.values():
        assert record.weight_license in text
        assert record.origin in text


@pytest.mark.parametrize("name", list_backbones())
def test_the_code_on_the_card_runs(name, capsys):
    """At the backbone's tiny sizes; tests/cli/test_convert.py runs the commands."""
    record = get_backbone(name)
    code, _ = how_to_use(CARDS / f"{name}.md")
    with registry_row(name, overrides=dict(record.overrides) | dict(record.tiny)):
        exec(compile(code, f"{name}.md", "exec"), scope := {})
    config = scope["model"].config
    assert config.num_labels == 1
    sizes = (config.num_frames, config.image_size, config.num_channels)
    assert capsys.readouterr().out == f"{' '.join(map(str, sizes))}\n"


def test_no_card_without_a_backbone():
    assert {path.stem for path in CARDS.glob("*.md")} == {"README", *list_backbones()}


def test_wrong_use(tmp_path):
    for words in ([], [str(tmp_path), "--registry", str(tmp_path)]):
        with pytest.raises(SystemExit) as leave:
            main(["card", *words])
        assert leave.value.code == 2
