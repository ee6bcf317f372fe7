"""The weighted sampler in two real processes: parts of one order, equally long epochs."""

import json
import sys

import numpy as np
import pytest

from tests.support.tiny_runs import OPTIONS, REPOSITORY, complete

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

PROBE = """
import json, sys
from pathlib import Path
import torch
from ct_video_hf.data import load_ct_dataset
from ct_video_hf.models import create_model
from ct_video_hf.training import inputs, trainer
from ct_video_hf.training.arguments import build_arguments
from ct_video_hf.training.options import resolve

options, extras = resolve(("test", json.loads(sys.argv[2])))
out = Path(sys.argv[1])
args = build_arguments(options, extras, out / "run", validate=False)
model = create_model(options["backbone"], num_labels=1, **inputs.model_overrides(options))
studies = load_ct_dataset(options["data"], "train")
processor = inputs.build_processor(options, model, inputs.plane_size(studies))
clips = inputs.clip_dataset(studies, processor, train=True, seed=options["seed"])
made = trainer.CTTrainer(model, args, train_dataset=clips)
loader = made.get_train_dataloader()
seen = []
for epoch in range(3):
    made._sampler.set_epoch(epoch)
    seen.append([
        torch.stack(
            [batch["study_index"], batch["clip_start"], batch["labels"][:, 0].long()], 1
        ).tolist()
        for batch in loader
    ])
rank, world = made.args.process_index, made.args.world_size
(out / f"rank-{rank}-of-{world}.json").write_text(json.dumps(seen))
if world > 1:
    torch.distributed.destroy_process_group()
"""


def seen_by(tmp_path, launcher, clip_set, world, **options):
    script = tmp_path / "probe.py"
    script.write_text(PROBE)
    said = {k: v for k, v in (OPTIONS | options).items()}
    said |= {"data": str(clip_set), "output": str(tmp_path / "run"), "validation_split": "none"}
    complete([sys.executable, *launcher, str(script), str(tmp_path), json.dumps(said)])
    names = [f"rank-{rank}-of-{world}.json" for rank in range(world)]
    return [json.loads((tmp_path / name).read_text()) for name in names]


def test_each_rank_has_its_own_part_of_the_order_of_one(clip_set, tmp_path):
    config = REPOSITORY / "scripts" / "accelerate" / "two_cpu.yaml"
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config)]
    both = seen_by(tmp_path, launcher, clip_set, 2, batch_size=2, sampling="0.3")
    (one,) = seen_by(tmp_path, [], clip_set, 1, batch_size=4, sampling="0.3")
    for epoch in range(3):
        first, second, alone = both[0][epoch], both[1][epoch], one[epoch]
        assert len(first) == len(second) == len(alone)
        together = [a + b for a, b in zip(first, second, strict=True)]
        assert together == alone  # the clips of every global batch, in the same order
    assert one[0] != one[1]
    labels = [label for epoch in one for batch in epoch for _, _, label in batch]
    assert np.mean(labels) == pytest.approx(0.3, abs=0.12)
