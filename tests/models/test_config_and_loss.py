"""Configurations refuse nonsense; the loss does what it says."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from huggingface_hub.errors import (
    StrictDataclassError,
    StrictDataclassFieldValidationError,
)
from torch import nn
from transformers import PreTrainedConfig

from ct_video_hf.models import (
    CTSlowConfig,
    CTVideoResNetConfig,
    CTX3DConfig,
    create_model,
    get_backbone,
    list_backbones,
    processor_for,
)
from ct_video_hf.models.loss import classification_loss, known_weight

FAMILIES = sorted(
    {get_backbone(name).config_class for name in list_backbones()}, key=lambda c: c.model_type
)
every_config = pytest.mark.parametrize("config_class", FAMILIES)


@every_config
def test_a_binary_task_is_one_logit_by_default(config_class):
    config = config_class()
    assert config.num_labels == 1
    assert config.problem_type == "multi_label_classification"


@every_config
@pytest.mark.parametrize("labels", [1, 2, 3])
def test_labels_survive_saving(config_class, labels, tmp_path):
    config = config_class(num_labels=labels)
    config.save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).num_labels == labels
    named = config_class(id2label={0: "no embolism", 1: "embolism"})
    named.save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).id2label == {0: "no embolism", 1: "embolism"}
    saved = json.loads((tmp_path / "config.json").read_text())
    assert set(saved["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForVideoClassification"}


@every_config
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frames": "32"}, "num_frames"),
        ({"image_size": 2.5}, "image_size"),
        ({"head_pool": 3}, "head_pool"),
        ({"class_weights": ["1"]}, "class_weights"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"problem_type": "ordinal"}, "problem_type is 'ordinal'; allowed"),
        ({"problem_type": "regression"}, "problem_type is 'regression'; allowed"),
        ({"head_pool": "median"}, "head_pool is 'median'; allowed"),
    ],
)
def test_wrong_fields_are_refused(config_class, fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        config_class(**fields)


@every_config
def test_every_field_of_every_family_is_typed(config_class):
    """A future import in the module would switch the checks off without a word."""
    config = config_class()
    fields = {field.name for field in dataclasses.fields(config_class)}
    ours = fields - {field.name for field in dataclasses.fields(PreTrainedConfig)}
    assert "num_frames" in ours
    for name in sorted(ours):
        with pytest.raises(StrictDataclassFieldValidationError, match=name):
            setattr(config, name, {"not": "possible"})


@pytest.mark.parametrize(
    ("config_class", "fields", "message"),
    [
        (CTSlowConfig, {"depths": [1, 1], "widths": [8, 8, 8]}, "widths is .*; 2 values"),
        (CTSlowConfig, {"stem_kernel": [1, 4, 4]}, "odd sizes"),
        (CTSlowConfig, {"widths": [8, 16, 32, 66]}, "66 is not a multiple of bottleneck 4"),
        (CTSlowConfig, {"norm": "layer"}, "allowed: batch, group"),
        (CTX3DConfig, {"spatial_strides": [1, 2]}, "4 values are expected"),
        (CTX3DConfig, {"kernels": [[3, 3, 2]] * 4}, "odd sizes"),
        (CTVideoResNetConfig, {"convolutions": ["4d"] * 4}, "no convolution 4d"),
        (CTVideoResNetConfig, {"depths": [2]}, "equally long"),
    ],
)
def test_impossible_architectures_are_refused(config_class, fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        config_class(**fields)


def test_create_model_refuses_typos():
    with pytest.raises(ValueError, match=r"slow_tiny cannot be made so.*depths"):
        create_model("slow_tiny", depths=[1.5])
    with pytest.raises(ValueError, match=r"no field stem_widht; known: .*stem_width"):
        create_model("slow_tiny", stem_widht=3)
    with pytest.raises(ValueError, match=r"no backbone 'slow'; known: .*slow_r50"):
        create_model("slow")
    model = create_model("slow_tiny", id2label={0: "a", 1: "b"}, **get_backbone("slow_tiny").tiny)
    assert model.classifier.out_features == 2


@pytest.mark.parametrize("name", list_backbones())
def test_processors_fit_their_backbones(name):
    record, processor = get_backbone(name), processor_for(name)
    config = record.config_class(**record.overrides)
    assert processor.plane_size == config.image_size
    assert processor.num_channels == config.num_channels
    assert processor.num_frames == config.num_frames
    least = config.smallest_clip
    assert (config.num_frames, config.image_size, config.image_size) >= least
    if record.weights:
        published = next(iter(record.weights.values()))
        assert processor.mean == list(published.mean)
        assert processor.std == list(published.std)


@pytest.mark.parametrize("name", list_backbones())
def test_records_are_complete(name):
    record = get_backbone(name)
    assert all(key.startswith("backbone.") for key in record.input_keys)
    assert record.input_keys
    for weights in record.weights.values():
        assert weights.url is None or weights.url.startswith("https://")
        assert weights.sha256 is None or len(weights.sha256) in (8, 64)
        assert len(weights.mean) == len(weights.std) == 3
        assert weights.top1 is None or 0 < weights.top1 < 100
        for text in ("code_license", "weight_license", "origin", "protocol", "paper"):
            assert getattr(weights, text)


def test_group_norm_is_a_config_field():
    model = create_model("slow_tiny", norm="group", **get_backbone("slow_tiny").tiny)
    kinds = {type(module) for module in model.modules()}
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm3d not in kinds


def test_the_2d_control_cannot_see_across_slices():
    torch.manual_seed(0)
    clip = torch.rand(1, 16, 1, 64, 64)
    shuffled = clip[:, torch.randperm(16)]
    for name, same in (("slow_tiny_2d", True), ("slow_tiny", False)):
        model = create_model(name, zero_init_last_norm=False)
        with torch.no_grad():
            close = torch.allclose(model(clip).logits, model(shuffled).logits, atol=1e-6)
        assert close is same
        assert all(
            module.kernel_size[0] == 1
            for module in model.modules()
            if same and isinstance(module, nn.Conv3d)
        )


# ---- loss ----------------------------------------------------------------------------------------


def test_the_rule_of_study_scores_is_saved_and_checked(tmp_path):
    from ct_video_hf.evaluation import AGGREGATIONS

    CTSlowConfig(study_aggregation="mean_top_k", study_top_k=2).save_pretrained(tmp_path)
    loaded = CTSlowConfig.from_pretrained(tmp_path)
    assert (loaded.study_aggregation, loaded.study_top_k) == ("mean_top_k", 2)
    assert CTSlowConfig().study_aggregation == "max"
    for method in AGGREGATIONS:  # what evaluation knows, a model may ask for
        CTSlowConfig(study_aggregation=method)
    with pytest.raises(StrictDataclassError, match="'median'; allowed: max, mean_top_k, noisy_or"):
        CTSlowConfig(study_aggregation="median")
    with pytest.raises(StrictDataclassError, match="study_top_k is 0"):
        CTSlowConfig(study_top_k=0)


def test_binary_loss_takes_flat_and_column_labels_and_skips_unknown_ones():
    config = CTSlowConfig()
    logits = torch.tensor([[0.3], [-1.2], [2.0]])
    labels = torch.tensor([1.0, 0.0, 1.0])
    expected = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels)
    for given in (labels, labels[:, None], labels.int(), labels.double()):
        assert classification_loss(logits, given, config) == pytest.approx(expected.item())
    unknown = torch.tensor([1.0, float("nan"), -1.0])
    alone = nn.functional.binary_cross_entropy_with_logits(logits[:1, 0], labels[:1])
    assert classification_loss(logits, unknown, config) == pytest.approx(alone.item())
    nothing = logits.clone().requires_grad_()
    loss = classification_loss(nothing, torch.full((3,), float("nan")), config)
    loss.backward()
    assert loss == 0
    assert torch.count_nonzero(nothing.grad) == 0


def test_multi_label_loss_with_weights():
    config = CTSlowConfig(num_labels=2, class_weights=[3.0, 1])
    logits, labels = torch.randn(4, 2), torch.randint(0, 2, (4, 2)).float()
    expected = nn.functional.binary_cross_entropy_with_logits(
        logits, labels, pos_weight=torch.tensor([3.0, 1.0])
    )
    assert classification_loss(logits, labels, config) == pytest.approx(expected.item())
    with pytest.raises(ValueError, match=r"labels has shape \(4,\); \(4, 2\) is needed"):
        classification_loss(logits, labels[:, 0], config)
    with pytest.raises(ValueError, match="class_weights has 2 values for 3 labels"):
        classification_loss(torch.randn(4, 3), torch.zeros(4, 3), config)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
def test_single_label_loss(weights):
    config = CTSlowConfig(
        num_labels=3, problem_type="single_label_classification", class_weights=weights
    )
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, -1, 1, 2])
    tensor = None if weights is None else torch.tensor(weights)
    expected = nn.functional.cross_entropy(logits, labels, weight=tensor, ignore_index=-1)
    assert classification_loss(logits, labels, config) == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="class indices"):
        classification_loss(logits, labels.float(), config)


def test_the_model_gives_the_loss():
    model = create_model("slow_tiny", **get_backbone("slow_tiny").tiny)
    clip = torch.rand(2, 4, 1, 16, 16)
    output = model(clip, labels=torch.tensor([[1.0], [0.0]]))
    expected = classification_loss(output.logits, torch.tensor([1.0, 0.0]), model.config)
    assert torch.equal(output.loss, expected)
    assert model(clip).loss is None


@pytest.mark.parametrize("weights", [None, [3.0]])
def test_smoothing_of_a_binary_target_is_the_softmax_of_two_classes(weights):
    """One logit x is two logits (0, x): smoothed targets must then give the same loss."""
    logits, labels = torch.randn(6, 1), torch.tensor([0.0, 1.0, 1.0, -1.0, 0.0, 1.0])
    found = classification_loss(
        logits, labels, CTSlowConfig(class_weights=weights), label_smoothing=0.2
    )
    two = torch.cat([torch.zeros(6, 1), logits], dim=1)
    terms = nn.functional.log_softmax(two, dim=1) * torch.tensor([1.0, (weights or [1.0])[0]])
    truth = torch.stack([1 - labels, labels], dim=1) * 0.8 + 0.1
    expected = -(terms * truth).sum(dim=1)[labels >= 0].mean()
    assert found == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
def test_smoothing_of_classes_is_that_of_torch(weights):
    config = CTSlowConfig(
        num_labels=3, problem_type="single_label_classification", class_weights=weights
    )
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, -1, 1, 2])
    tensor = None if weights is None else torch.tensor(weights)
    expected = nn.functional.cross_entropy(
        logits, labels, weight=tensor, ignore_index=-1, label_smoothing=0.1
    )
    found = classification_loss(logits, labels, config, label_smoothing=0.1)
    assert found == pytest.approx(expected.item())


def test_focal_loss_is_that_of_the_paper():
    """Lin et al. 2017, equation 5: -a_t (1 - p_t)^gamma log p_t; one logit equals two classes."""
    logits = torch.randn(8, 1)
    labels = torch.tensor([0.0, 1.0, 1.0, -1.0, 0.0, 1.0, 0.0, 0.0])
    p = torch.sigmoid(logits[:, 0])
    p_t = torch.where(labels == 1, p, 1 - p)
    a_t = torch.where(labels == 1, 3.0, 1.0)
    expected = (-a_t * (1 - p_t) ** 2 * p_t.log())[labels >= 0].mean()
    config = CTSlowConfig(class_weights=[3.0])
    assert classification_loss(logits, labels, config, focal_gamma=2.0) == pytest.approx(
        expected.item(), rel=1e-5
    )
    two = CTSlowConfig(num_labels=2, problem_type="single_label_classification")
    pairs = torch.cat([torch.zeros(8, 1), logits], dim=1)
    plain = classification_loss(logits, labels, CTSlowConfig(), focal_gamma=2.0)
    assert classification_loss(pairs, labels.long(), two, focal_gamma=2.0) == pytest.approx(
        plain.item(), rel=1e-5
    )


@pytest.mark.parametrize("problem", ["multi_label_classification", "single_label_classification"])
def test_focal_loss_keeps_finite_gradients_where_the_network_is_sure(problem):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    if problem == "single_label_classification":
        labels = torch.tensor([0, 0])
    config = CTSlowConfig(num_labels=2, problem_type=problem)
    classification_loss(logits, labels, config, focal_gamma=0.5).backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.count_nonzero(logits.grad)


def test_parts_of_a_batch_with_its_divisor_add_up_to_the_whole():
    config, weights = CTSlowConfig(num_labels=3), [1.0, 0.5, 2.0]
    logits, labels = torch.randn(4, 3), torch.randint(0, 2, (4, 3)).float()
    labels[0, 1], labels[3] = float("nan"), -1.0
    whole = classification_loss(logits, labels, config, label_weights=weights)
    divisor = known_weight(labels, config, weights)
    assert divisor == pytest.approx(3 * 3.5 - 0.5)
    parts = [
        classification_loss(
            logits[rows], labels[rows], config, label_weights=weights, divisor=divisor
        )
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert sum(parts) == pytest.approx(whole.item())
