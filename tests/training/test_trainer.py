import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ct_video_hf.data import load_ct_dataset
from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation import point_metrics
from ct_video_hf.evaluation.score import score_clips
from ct_video_hf.models import create_model
from ct_video_hf.training import CTTrainer, CTTrainingArguments
from ct_video_hf.training.groups import freeze_backbone
from ct_video_hf.training.inputs import clip_dataset, plane_size


@pytest.fixture
def make_trainer(clip_set, tmp_path):
    """A trainer on the tiny set; keyword arguments are arguments of the training."""

    def make(prepare=None, **given):
        from ct_video_hf.training.inputs import build_processor
        from ct_video_hf.training.options import resolve

        options, _ = resolve(("test", {"data": "x", "output": "y", "backbone": "slow_tiny"}))
        options["crop_size"] = 32
        studies = load_ct_dataset(clip_set)
        torch.manual_seed(0)
        model = create_model("slow_tiny", num_frames=8, image_size=32)
        if prepare is not None:
            prepare(model)
        processor = build_processor(options, model, plane_size(studies["train"]))
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "disable_tqdm": True,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 5,
            "learning_rate": 1e-3,
        }
        return CTTrainer(
            model,
            CTTrainingArguments(**(defaults | given)),
            train_dataset=clip_dataset(studies["train"], processor, train=True),
            eval_dataset=clip_dataset(studies["validation"], processor, train=False),
            processing_class=processor,
        )

    return make


def test_evaluation_names_clips_and_studies_and_keeps_the_table(make_trainer):
    trainer = make_trainer()
    metrics = trainer.evaluate()
    table = trainer.predictions
    assert len(table) == len(trainer.eval_dataset)
    for name, value in point_metrics(table).items():
        assert metrics[f"eval_{name}"] == pytest.approx(value)
    # The table is what scoring without the Trainer gives.
    other = score_clips(trainer.model, trainer.eval_dataset, device=torch.device("cpu"))
    np.testing.assert_allclose(table["logit"], other["logit"], atol=1e-5)
    assert table.drop(columns=["logit", "score"]).equals(other.drop(columns=["logit", "score"]))
    # The loss is the mean over clips, whatever the size of the last batch.
    targets = torch.tensor(table["label"].to_numpy(), dtype=torch.float64)
    logits = torch.tensor(table["logit"].to_numpy())
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert metrics["eval_loss"] == pytest.approx(expected.item(), rel=1e-9)


def test_a_nan_loss_stops_and_names_the_study(make_trainer):
    trainer = make_trainer(sampling="shuffle", per_device_train_batch_size=1)
    poisoned = int(trainer.train_dataset.index.study[-1])
    inner = trainer.train_dataset.transform

    def poison(clip, *, index, epoch):
        values = inner(clip, index=index, epoch=epoch)
        if trainer.train_dataset.index.study[index] == poisoned:
            values[0, 0, 0, 0] = math.nan
        return values

    trainer.train_dataset.transform = poison
    study = trainer.train_dataset.dataset[poisoned]["study_id"]
    with pytest.raises(CTVideoError, match=f"the loss is nan .*in study {study}; its input"):
        trainer.train()


def test_diverged_weights_are_told_from_bad_input(make_trainer):
    def break_head(model):
        model.classifier.weight.data.fill_(math.inf)

    with pytest.raises(CTVideoError, match="the weights have diverged"):
        make_trainer(break_head).train()


def test_a_frozen_backbone_stays_bit_for_bit(make_trainer):
    trainer = make_trainer(freeze_backbone)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {
        name
        for name, value in trainer.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"classifier.weight", "classifier.bias"}


def test_weight_decay_spares_biases_and_batch_norms(make_trainer):
    trainer = make_trainer(weight_decay=0.1)
    decayed = trainer.get_decay_parameter_names(trainer.model)
    norms = [
        name for name, module in trainer.model.named_modules() if "BatchNorm" in str(type(module))
    ]
    assert norms
    assert not any(name.rpartition(".")[0] in norms or name.endswith("bias") for name in decayed)
    assert "classifier.weight" in decayed
    groups = trainer.create_optimizer().param_groups
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_adam_is_the_papers_with_l2_on_everything(make_trainer):
    trainer = make_trainer(optimizer="adam", weight_decay=1e-6)
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.Adam
    every = sum(1 for _ in trainer.model.parameters())
    assert len(optimizer.param_groups[0]["params"]) == every
    assert optimizer.param_groups[0]["weight_decay"] == 1e-6


def test_plateau_follows_the_loss_and_not_the_metric(make_trainer):
    trainer = make_trainer(
        lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs={"factor": 0.5}
    )
    trainer.train()
    scheduler = trainer.lr_scheduler
    loss = next(row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row)
    assert scheduler.mode == "min"
    assert scheduler.best == pytest.approx(loss)


def test_accumulation_is_the_same_as_a_larger_batch(make_trainer):
    def last_loss(**given):
        trainer = make_trainer(
            freeze_backbone, learning_rate=0.05, lr_scheduler_type="constant", **given
        )
        trainer.train()
        return trainer.model.classifier.weight.detach().clone(), trainer.state.log_history[0][
            "loss"
        ]

    weight, loss = last_loss(per_device_train_batch_size=4)
    halves, half_loss = last_loss(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    torch.testing.assert_close(weight, halves, rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(half_loss, rel=1e-4)


def test_a_copied_run_ends_with_its_own_best_checkpoint(make_trainer, tmp_path):
    """Its last checkpoint says that the best one is in the folder of the original."""

    given = {"num_train_epochs": 2, "learning_rate": 0.0}

    def resumed(folder):
        trainer = make_trainer(freeze_backbone, output_dir=str(folder), **given)
        trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{2 * steps}"))
        return trainer

    first = make_trainer(freeze_backbone, **given)
    first.train()
    steps = first.state.best_global_step
    assert 2 * steps == first.state.global_step, "the first of two equal ones is the best"
    copied = Path(shutil.copytree(tmp_path / "out", tmp_path / "copied"))
    best = copied / f"checkpoint-{steps}"
    weights = load_file(best / "model.safetensors")
    other = {name: value + 1 for name, value in weights.items()}
    save_file(other, best / "model.safetensors", metadata={"format": "pt"})
    trainer = resumed(copied)
    assert trainer.state.best_model_checkpoint == str(best)
    assert trainer.model.state_dict()["classifier.bias"].equal(other["classifier.bias"])
    shutil.rmtree(best)
    message = f"{best.name}, the best so far .*, is not in the folder copied: put it back"
    with pytest.raises(CTVideoError, match=message):
        resumed(copied)


def test_channels_last_gives_the_same_network(make_trainer):
    plain = make_trainer().evaluate()
    other = make_trainer(channels_last=True)
    assert other.model.backbone.blocks[0].conv.weight.is_contiguous(
        memory_format=torch.channels_last_3d
    )
    assert other.evaluate()["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-4)


@pytest.mark.parametrize(
    "given", [{"bf16": True}, {"activation_checkpointing": True}, {"channels_last": True}]
)
def test_economies_train_and_save(make_trainer, given, tmp_path):
    trainer = make_trainer(**given)
    trainer.train()
    checkpoint = tmp_path / "out" / f"checkpoint-{trainer.state.global_step}"
    assert (checkpoint / "complete.json").is_file()
    assert not list(tmp_path.rglob("training_args.bin"))
    reloaded = type(trainer.model).from_pretrained(checkpoint)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], value), name


def test_other_labels_than_those_of_the_clips_are_refused(make_trainer, tmp_path):
    clips = make_trainer().train_dataset
    args = CTTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(CTVideoError, match=r"the clips have 1 label\(s\), the model has 2"):
        CTTrainer(create_model("slow_tiny", num_labels=2), args, train_dataset=clips)
    classes = create_model("slow_tiny", num_labels=2, problem_type="single_label_classification")
    with pytest.raises(CTVideoError, match="chooses between classes"):
        CTTrainer(classes, args)


@pytest.mark.parametrize(
    ("given", "why"),
    [({"bf16": True}, "16 bits would be"), ({"channels_last": True}, "cannot send")],
)
def test_what_deepspeed_breaks_is_refused(tmp_path, given, why):
    args = CTTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)
    args.deepspeed_plugin = object()
    with pytest.raises(CTVideoError, match=why):
        CTTrainer(create_model("slow_tiny"), args)
