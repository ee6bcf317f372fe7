"""``transformers.pipeline("ct-volume-classification", model=...)``: this package's prediction.

Imported by :mod:`._registration` once ``transformers.pipelines`` is there. What computes is
:class:`ct_video_hf.inference.CTVideoPipeline`, and it is imported when a pipeline is made.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .errors import CTVideoError
from .models.volume_pipeline import TASK

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .inference import LoadedModel
    from .models import CTVideoProcessor

__all__ = ["TASK", "CTVolumeClassificationPipeline"]


@dataclass(frozen=True)
class _NamedModel:
    """A model that was asked for by name, not loaded yet.

    transformers would load weights alone, and tries other classes after an error; here weights,
    processor, calibration and provenance come from one commit, and an error is told as it is.
    """

    name: str
    revision: str | None = None
    token: str | bool | None = None
    refused: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        dtype: Any = None,
        trust_remote_code: bool | None = None,
        code_revision: str | None = None,
        local_files_only: bool = False,
        _from_pipeline: str | None = None,
        **others: Any,
    ) -> _NamedModel:
        """What ``transformers.pipeline`` calls. No code of a repository is ever fetched or run."""
        refused = tuple(sorted(others)) + (("local_files_only",) if local_files_only else ())
        return cls(name, revision, token, refused)

    def load(self) -> LoadedModel:
        """Weights, processor, calibration and where they came from."""
        from .inference import load_model

        if self.refused:
            raise CTVideoError(
                f"The pipeline {TASK!r} does not take {', '.join(self.refused)} for its model. "
                "HF_HUB_OFFLINE=1 and HF_HOME say whether to use the network and where the cache "
                "is; device= places the network."
            )
        return load_model(self.name, revision=self.revision, token=self.token)


class CTVolumeClassificationPipeline(Pipeline):
    """Whole-study prediction on chest CT as a pipeline of transformers.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        From ``transformers.pipeline(..., model="user/model")`` the model's weights, processor and
        calibration come from one commit; a network that was built by hand needs
        ``video_processor`` and has no calibration.
    video_processor : CTVideoProcessor, optional
        Instead of the model's own.
    device : int, str or torch.device, optional
        As in transformers; default: the first CUDA device, or the CPU.
    dtype : torch.dtype or str, optional
        As in :func:`ct_video_hf.pipeline`; "auto" is float32.
    policy, batch_size, stride, label, backend
        As in :func:`ct_video_hf.pipeline`.

    Examples
    --------
    >>> import ct_video_hf
    >>> from transformers import pipeline
    >>> predict = pipeline("ct-volume-classification", model="user/model")    # doctest: +SKIP
    >>> predict("scan/")["study_probability"]                                 # doctest: +SKIP
    0.93
    """

    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False  # it comes with the model
    _load_processor = False
    _pipeline_calls_generate = False

    def __init__(
        self,
        model: PreTrainedModel | _NamedModel,
        *,
        video_processor: CTVideoProcessor | None = None,
        device: int | str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        policy: str = "strict",
        batch_size: int | None = None,
        stride: int | None = None,
        label: str | int | None = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        from .inference import CTVideoPipeline

        if isinstance(device, int):
            device = f"cuda:{device}" if device >= 0 else "cpu"
        self.predictor = CTVideoPipeline(
            _loaded(model, video_processor),
            device=device,
            dtype=None if dtype == "auto" else dtype,
            policy=policy,
            batch_size=4 if batch_size is None else batch_size,
            stride=stride,
            label=label,
            backend=backend,
        )
        super().__init__(
            model=self.predictor.model,
            video_processor=self.predictor.processor,
            device=self.predictor.device,
            **kwargs,
        )

    def __call__(self, inputs: Any, **options: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """Predict scans, see :meth:`ct_video_hf.inference.CTVideoPipeline.__call__`.

        Parameters
        ----------
        inputs : path, CTVolume, or list of them
            DICOM folder, zip or NIfTI; a folder of studies gives a list.
        **options
            ``include_ids``, ``progress`` and ``on_error``, as there.
        """
        return self.predictor(inputs, **options)

    # transformers wants its three steps; each scan goes through them in one.

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        if options:
            raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(options))}.")
        return {}, {}, {}

    def preprocess(self, input_: Any) -> dict[str, Any]:
        """A scan as it was given."""
        return {"scan": input_}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        return {"result": self.predictor(model_inputs["scan"])}

    def postprocess(self, model_outputs: dict[str, Any]) -> Any:
        """The result of :meth:`__call__`."""
        return model_outputs["result"]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save network, processor and calibration as a folder that this pipeline loads."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.predictor.processor.save_pretrained(save_directory)
        for kept in (self.predictor.loaded.calibration, self.predictor.loaded.attention):
            if kept is not None:
                kept.write(save_directory)


def _loaded(
    model: PreTrainedModel | _NamedModel, processor: CTVideoProcessor | None
) -> LoadedModel:
    from .inference import LoadedModel

    if isinstance(model, _NamedModel):
        loaded = model.load()
        return loaded if processor is None else replace(loaded, processor=processor)
    if processor is None:
        raise CTVideoError(
            f"The pipeline {TASK!r} was given a network without its processor. Pass "
            "video_processor=, or the name of a model folder or Hub repository as model."
        )
    name = os.path.basename(os.path.normpath(model.name_or_path or type(model).__name__))
    return LoadedModel(model, processor, name)


if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=CTVolumeClassificationPipeline,
        pt_model=_NamedModel,
        type="multimodal",
    )
