"""What the configurations of all backbones share: their fields, and what is refused.

No ``from __future__ import annotations`` where a configuration is defined: ``strict`` checks the
types of fields only when they are types and not text.
"""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .volume_pipeline import CUSTOM_PIPELINES

__all__ = ["CTVideoConfig"]

#: How clip scores may become a study's score.
STUDY_AGGREGATIONS = ("max", "mean_top_k", "noisy_or", "attention")

PROBLEM_TYPES = ("multi_label_classification", "single_label_classification")


@strict
class CTVideoConfig(PreTrainedConfig):
    """Fields that every backbone's configuration has.

    ``num_labels`` is 1 unless ``num_labels`` or ``id2label`` says otherwise: a binary task is one
    logit with binary cross-entropy.
    """

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["hidden_states", "pooler_output"]
    #: Classes that load this configuration, by Auto class; they live in the configuration's module.
    auto_classes: ClassVar[dict[str, str]] = {}

    #: Slices in the clips that the model is meant for.
    num_frames: int = 32
    #: Side in pixels of the planes that the model is meant for.
    image_size: int = 224
    #: Channels of ``pixel_values``.
    num_channels: int = 3
    #: Probability of zeroing a feature before the classifier while training.
    dropout: float | int = 0.5
    #: Standard deviation of the classifier's initial weights.
    head_init_std: float | int = 0.01
    #: One weight a label: of its positive cases (multi-label) or of the class (single-label).
    class_weights: list[float | int] | None = None
    #: How the clip scores of a study become its score; what the model was validated with.
    study_aggregation: str = "max"
    #: Clips that ``mean_top_k`` averages.
    study_top_k: int = 3

    def __post_init__(self, **kwargs: Any) -> None:
        if self.id2label is None and kwargs.get("num_labels") is None:
            kwargs["num_labels"] = 1
        if self.problem_type is None:
            self.problem_type = "multi_label_classification"
        if not __name__.startswith("transformers_modules."):  # then the task is the package's own
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    @property
    def feature_size(self) -> int:
        """Length of the pooled feature vector."""
        raise NotImplementedError(f"{type(self).__name__} does not say its feature_size.")

    @property
    def smallest_clip(self) -> tuple[int, int, int]:
        """Fewest frames, rows and columns that the network accepts."""
        return (1, 1, 1)

    @property
    def other_clips(self) -> str:
        """What to do about a clip that is refused, as a sentence; empty where it says itself."""
        return ""

    def check_clip(self, frames: int, rows: int, columns: int) -> None:
        """Refuse clips that are large enough and still not possible; most networks have none."""

    def validate_sizes(self) -> None:
        """Refuse sizes below 1 and dropout outside 0..1."""
        for name in ("num_frames", "image_size", "num_channels", "study_top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is expected.")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout is {self.dropout}; 0 to 1 is expected.")

    def validate_study_aggregation(self) -> None:
        """Refuse rules that nothing here knows."""
        if self.study_aggregation not in STUDY_AGGREGATIONS:
            raise ValueError(
                f"study_aggregation is {self.study_aggregation!r}; allowed: "
                f"{', '.join(STUDY_AGGREGATIONS)}."
            )

    def validate_problem_type(self) -> None:
        """Refuse losses that the heads do not have."""
        if self.problem_type is not None and self.problem_type not in PROBLEM_TYPES:
            raise ValueError(
                f"problem_type is {self.problem_type!r}; allowed: {', '.join(PROBLEM_TYPES)}. "
                "A binary task is multi_label_classification with one label."
            )

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved: labels always, for transformers would leave out two of them.

        And what a pipeline needs, for those who have no package, see ``volume_pipeline``.
        """
        labels = {"id2label": self.id2label, "label2id": self.label2id}
        return super().to_diff_dict() | labels | {"custom_pipelines": CUSTOM_PIPELINES}

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any):
        """Save as transformers does, naming every Auto class whose code travels along."""
        module = type(self).__module__.split(".")[-1]
        ours = {auto: f"{module}.{name}" for auto, name in self.auto_classes.items()}
        self.auto_map = {**(getattr(self, "auto_map", None) or {}), **ours}
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
