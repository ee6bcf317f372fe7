"""Networks of each kind of operation become graphs that give the network's own results."""

from __future__ import annotations

import pytest
import torch

from ct_video_hf.export.graphs import WRITERS
from ct_video_hf.export.network import ACTIVATION_LABELS, record, to_record
from ct_video_hf.inference.exported import FORMATS, ExportedNetwork, GraphRunner
from ct_video_hf.inference.localization import clip_forward

from ..models.backbone_cases import tiny_clip, tiny_model

#: A network of each kind of operation. r3d_18, lrcn_resnet18 and lrcn_resnext101 passed once, by
#: hand; the recurrent ones take long. Every export is compared with its network anyway.
_TRIED = (
    "csn_r101",
    "penet",
    "r2plus1d_r50",
    "resnet18_2d",
    "s3d",
    "slow_tiny",
    "slowfast_r50",
    "swin3d_t",
    "x3d_s",
)


def exported(model, clips, folder):
    """Format -> the network as each runtime has it, from one recording."""
    network = to_record(model, clips[:1])
    program = record(network, clips[:1])
    facts = {"input_shape": [None, *clips.shape[1:]]}
    for name, write in WRITERS.items():
        write(program, network.names, folder)
        yield name, ExportedNetwork(model.config, GraphRunner(folder, FORMATS[name]), facts)


@pytest.mark.parametrize("name", _TRIED)
def test_graphs_are_the_network(name, tmp_path):
    """Logits and activations, of one clip and of three, in both formats."""
    model = tiny_model(name)
    clips = torch.randn_like(tiny_clip(name, batch=3, model=model))
    if clip_forward(model, clips, 0)[1].max() == 0:  # all of it speaks against the label
        model.classifier.weight.data.neg_()
    expected, along = clip_forward(model, clips, 0)
    assert along.max() > 0
    for format, graph in exported(model, clips, tmp_path):
        for some in (slice(0, 1), slice(0, 3)):
            logits, activation = graph.scores(clips[some], 0)
            torch.testing.assert_close(logits, expected[some], rtol=1e-4, atol=1e-5, msg=format)
            torch.testing.assert_close(
                activation, along[some], rtol=1e-3, atol=1e-3 * along.max().item(), msg=format
            )
        assert graph.runner.precision == "float32"
        assert graph.runner.name.startswith(FORMATS[format].runtime)


@pytest.mark.parametrize("problem", ["multi_label_classification", "single_label_classification"])
def test_each_label_has_its_activation(problem, tmp_path):
    """With a softmax what speaks for one class speaks against the others."""
    model = tiny_model("slow_tiny", num_labels=3, problem_type=problem)
    clips = tiny_clip("slow_tiny", batch=3, model=model)
    for _, graph in exported(model, clips, tmp_path):
        for label in range(3):
            expected, along = clip_forward(model, clips, label)
            logits, activation = graph.scores(clips, label)
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(activation, along, rtol=1e-3, atol=1e-6)
        assert not torch.equal(graph.scores(clips, 0)[1], graph.scores(clips, 1)[1])


@pytest.mark.parametrize("pool", ["max", "published"])
def test_other_poolings_have_activations(pool, tmp_path):
    """A window that does not fill the last grid: places of the grid differ in their weight."""
    model = tiny_model("slow_tiny", head_pool=pool, head_pool_kernel=[2, 1, 1])
    clips = tiny_clip("slow_tiny", batch=2, model=model)
    expected, along = clip_forward(model, clips, 0)
    for _, graph in exported(model, clips, tmp_path):
        logits, activation = graph.scores(clips, 0)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(activation, along, rtol=1e-3, atol=1e-6)


def test_many_labels_have_logits_alone(tmp_path):
    model = tiny_model("slow_tiny", num_labels=ACTIVATION_LABELS + 1)
    clips = tiny_clip("slow_tiny", batch=2, model=model)
    expected, _ = clip_forward(model, clips, 0)
    for _, graph in exported(model, clips, tmp_path):
        logits, activation = graph.scores(clips, 0)
        assert activation is None
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_networks_with_a_class_token_have_logits_alone(tmp_path):
    """mvit_v2_s passed too, but takes three times as long to write."""
    model = tiny_model("mvit_b_32x3")
    clips = torch.randn_like(tiny_clip("mvit_b_32x3", batch=3, model=model))
    expected = clip_forward(model, clips, 0)[0]
    for format, graph in exported(model, clips, tmp_path):
        for some in (slice(0, 1), slice(0, 3)):
            logits, along = graph.scores(clips[some], 0)
            torch.testing.assert_close(logits, expected[some], rtol=1e-4, atol=1e-5, msg=format)
            assert along is None


def test_a_clip_of_another_size_is_refused_at_the_door(tmp_path):
    model = tiny_model("slow_tiny")
    clips = tiny_clip("slow_tiny", batch=2, model=model)
    for _, graph in exported(model, clips, tmp_path):
        with pytest.raises(ValueError, match=r"the exported graph takes \(clips, "):
            graph.scores(clips[:, :-1], 0)


def test_nothing_of_the_machine_is_in_a_graph(tmp_path):
    """Exporters note the source line of every operation."""
    import onnx

    model = tiny_model("swin3d_t")
    list(exported(model, tiny_clip("swin3d_t", model=model), tmp_path))
    graph = onnx.load(tmp_path / "model.onnx")
    assert not graph.metadata_props
    texts = [
        text
        for node in [*graph.graph.node, *(node for part in graph.functions for node in part.node)]
        for text in (node.doc_string, *(prop.value for prop in node.metadata_props))
    ]
    assert not any(texts)
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        for trace in (b".py", b"site-packages", b"ct_video_hf", str(tmp_path).encode()):
            assert trace not in content, (file.name, trace)
