"""A training that starts from a converted checkpoint says so, on its card too."""

import json

import torch

from ct_video_hf.hub import check_model_card, check_model_folder, convert_checkpoint
from ct_video_hf.hub.card import write_model_card
from ct_video_hf.models import create_model
from ct_video_hf.training import run
from tests.models.backbone_cases import enliven
from tests.support.tiny_runs import OPTIONS


def test_the_origin_of_the_weights_stays_known(clip_set, tmp_path):
    torch.manual_seed(0)
    network = enliven(create_model("slow_tiny", image_size=32, num_frames=8))
    torch.save(network.state_dict(), tmp_path / "weights.pyth")
    start = convert_checkpoint(
        "slow_tiny", tmp_path / "weights.pyth", tmp_path / "start", num_frames=8, image_size=32
    )
    assert check_model_card(start) + check_model_folder(start) == []
    facts = json.loads((start / "conversion.json").read_text())
    options = OPTIONS | {"epochs": 1, "lr": 1e-9, "freeze": "backbone", "test_split": "none"}
    result = run(
        data=str(clip_set),
        output=str(tmp_path / "out"),
        weights=str(start),
        write_card=write_model_card,
        **options,
    )
    assert result.config["converted_from"]["sha256"] == facts["sha256"]
    card = (result.folder / "README.md").read_text()
    assert facts["sha256"] in card
    assert "`start`, a converted checkpoint" in card
    assert "have seen no CT scan" not in card
    assert not (result.folder / "conversion.json").exists()
    assert check_model_card(result.folder) + check_model_folder(result.folder) == []
