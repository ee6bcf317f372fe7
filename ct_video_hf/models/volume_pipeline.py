"""What a model repository says to ``transformers.pipeline`` where the package is not imported.

A whole-study prediction reads DICOM, which the code in a model repository cannot: that is the
package's. With ``import ct_video_hf`` the task is the package's own and this file is not used;
without it, and with ``trust_remote_code=True``, transformers finds this class through the
configuration, and it says what is missing instead of "unknown task".
"""

from typing import Any, ClassVar

__all__ = ["CUSTOM_PIPELINES", "TASK", "CTVolumePipelineStandIn"]

#: The task of ``transformers.pipeline``.
TASK = "ct-volume-classification"


class CTVolumePipelineStandIn:
    """Stands where transformers looks for a pipeline's class; it cannot be built.

    Raises
    ------
    ImportError
        Always, with what to do.
    """

    _load_tokenizer: ClassVar[bool] = False
    _load_feature_extractor: ClassVar[bool] = False
    _load_image_processor: ClassVar[bool] = False
    _load_video_processor: ClassVar[bool] = False
    _load_processor: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(
            f"The pipeline {TASK!r} reads CT scans, which takes the package ct-video-hf: install "
            "it and `import ct_video_hf` before this call. Then no code of the repository is "
            "needed. Without the package, AutoModelForVideoClassification and AutoVideoProcessor "
            "load with trust_remote_code=True and take Hounsfield units from a reader of yours."
        )


#: What ``config.json`` says about it, in transformers' words.
CUSTOM_PIPELINES: dict[str, dict[str, Any]] = {
    TASK: {
        "impl": f"volume_pipeline.{CTVolumePipelineStandIn.__name__}",
        "pt": ["AutoModelForVideoClassification"],
    }
}
