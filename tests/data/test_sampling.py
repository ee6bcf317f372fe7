import numpy as np
import pytest

from ct_video_hf.data.clips import ClipIndex
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.sampling import clip_sampling_weights


def index(labels, weight=None):
    labels = np.asarray(labels, np.float32)
    n = len(labels)
    zeros = np.zeros(n, np.int32)
    weight = np.ones(n) if weight is None else np.asarray(weight, float)
    return ClipIndex(zeros, zeros, zeros, labels, weight, np.zeros(n, bool), 8)


@pytest.mark.parametrize(
    ("mass", "share"),
    [("balanced", 0.5), ("paper-lidc", 0.5), ("paper-rsna", 0.3), ((0.8, 0.2), 0.2)],
)
def test_classes_get_their_share(mass, share):
    clips = index([[1.0]] * 3 + [[0.0]] * 17)
    weights = clip_sampling_weights(clips, mass)
    assert weights.sum() == pytest.approx(1)
    assert weights[:3].sum() == pytest.approx(share)
    assert len(set(weights[:3])) == len(set(weights[3:])) == 1


def test_study_weights_count_within_a_class():
    weights = clip_sampling_weights(index([[1.0], [1.0], [0.0]], [3, 1, 5]))
    assert weights.tolist() == pytest.approx([0.375, 0.125, 0.5])
    assert clip_sampling_weights(index([[1.0], [0.0]], [3, 1]), None).tolist() == [0.75, 0.25]


def test_any_label_makes_a_clip_positive():
    weights = clip_sampling_weights(index([[0, 1], [1, 1], [0, 0]]))
    assert weights.tolist() == pytest.approx([0.25, 0.25, 0.5])


def test_refusals():
    with pytest.raises(CTDataError, match="no positive clip among 2"):
        clip_sampling_weights(index([[0.0], [0.0]]))
    with pytest.raises(CTDataError, match=r"no negative clip among 2: .* --sampling shuffle"):
        clip_sampling_weights(index([[1.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(CTDataError, match="class mass 'fair'"):
        clip_sampling_weights(index([[0.0], [1.0]]), "fair")
    with pytest.raises(CTDataError, match="two shares"):
        clip_sampling_weights(index([[0.0], [1.0]]), (0.5, 0.6))
    with pytest.raises(CTDataError, match="no labels"):
        clip_sampling_weights(index(np.zeros((2, 0))))
