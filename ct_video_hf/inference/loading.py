"""A model folder or a Hub id to a network with its processor, from one commit, without its code.

Only data is fetched and read (JSON and safetensors): the classes are those of the installed
package or of transformers. A model that needs code of its own is refused.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CTVideoError
from ..evaluation import Calibration, LabelCalibrations, read_calibration
from ..evaluation.attention import AttentionHead, how_to_fit, read_attention
from ..progress import no_transformers_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..models import CTVideoProcessor

__all__ = ["LoadedModel", "ModelLoadError", "attention_for", "load_model"]

logger = logging.getLogger(__name__)

_PROCESSOR_FILE = "video_preprocessor_config.json"


class ModelLoadError(CTVideoError):
    """A model that cannot be loaded: what was looked for, where, and what to do."""


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode, its processor, and where both came from.

    Attributes
    ----------
    model : transformers.PreTrainedModel or ExportedNetwork
    processor : CTVideoProcessor
    name : str
        Hub id, or the name of the folder (without the folders above it).
    revision, commit : str or None
        What was asked for and the commit it stood for; None for a folder.
    training : dict
        The folder's training_config.json; empty where there is none.
    calibration : Calibration, LabelCalibrations or None
        The folder's calibration.json.
    attention : AttentionHead or None
        The folder's head of learned attention.
    folder : pathlib.Path or None
        Where all of it was read; None for a network that was made by hand.
    """

    model: PreTrainedModel
    processor: CTVideoProcessor
    name: str
    revision: str | None = None
    commit: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | LabelCalibrations | None = None
    attention: AttentionHead | None = None
    folder: Path | None = None

    @property
    def aggregation(self) -> tuple[str, int]:
        """How clip scores become study scores: the rule and the clips that mean_top_k averages."""
        config = self.model.config
        return getattr(config, "study_aggregation", "max"), getattr(config, "study_top_k", 3)

    def describe(self) -> dict[str, Any]:
        """JSON-able: name, revision, commit, model_type and backbone."""
        config = self.model.config
        return {
            "name": self.name,
            "revision": self.revision,
            "commit": self.commit,
            "model_type": config.model_type,
            "backbone": str(self.training.get("backbone") or config.model_type),
        }


def attention_for(loaded: LoadedModel, method: str) -> AttentionHead | None:
    """The head that a rule of study scores needs; None for the rules that need none.

    Raises
    ------
    CTVideoError
        Learned attention, of a model without a head.
    """
    if method != "attention":
        return None
    if loaded.attention is None:
        raise CTVideoError(
            f"{loaded.name} has no attention head (attention.json, attention.safetensors), and "
            f"its study scores are to be made by learned attention. {how_to_fit(loaded.name)}"
        )
    return loaded.attention


def load_model(
    name_or_path: str | Path, *, revision: str | None = None, token: str | bool | None = None
) -> LoadedModel:
    """Load a network and its processor.

    Parameters
    ----------
    name_or_path : str or path
        A folder that ``save_pretrained``, training or an export wrote, or a Hub id such as
        ``user/model`` (``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and the cache are honoured).
    revision : str, optional
        Branch, tag or commit on the Hub. Model and processor come from the same commit.
    token : str or bool, optional
        For the Hub, instead of the one that `hf auth login` or ``HF_TOKEN`` left.

    Raises
    ------
    ModelLoadError
        Not a model folder, not on the Hub, no access, no network, a broken file, or a model that
        needs code of its own.
    """
    path = Path(name_or_path)
    if path.is_dir():
        if revision is not None:
            raise ModelLoadError(
                f"{path.name} is a folder on this machine, which has no revision {revision!r}. "
                "Leave the revision out."
            )
        return _from_folder(path, name=path.resolve().name)
    if path.exists():
        raise ModelLoadError(f"{path.name} is a file; a model folder or a Hub id is needed.")
    from ..models.hub_files import is_hub_id

    if not is_hub_id(str(name_or_path)):
        raise ModelLoadError(
            f"There is no folder {str(name_or_path)!r}, and that is no Hub id (user/model) either."
        )
    return _from_hub(str(name_or_path), revision, token)


def _from_hub(repo: str, revision: str | None, token: str | bool | None) -> LoadedModel:
    from ..models.hub_files import HubFilesError, snapshot
    from .exported import GRAPH_FILES, is_exported

    try:
        folder = snapshot(repo, revision, token=token)  # no code is fetched
        if is_exported(folder):
            snapshot(repo, folder.name, files=GRAPH_FILES, token=token)
    except HubFilesError as error:
        raise ModelLoadError(str(error)) from error
    return _from_folder(folder, name=repo, revision=revision or "main", commit=folder.name)


def _from_folder(
    path: Path, *, name: str, revision: str | None = None, commit: str | None = None
) -> LoadedModel:
    from .exported import is_exported, load_exported

    _check_config(path, name)
    processor = _load_processor(path, name)
    model = load_exported(path, name) if is_exported(path) else _load_network(path, name)
    _check_fit(model.config, processor, name)
    record = path / "training_config.json"
    training = _read_json(record, name) if record.is_file() else {}
    try:
        calibration = read_calibration(path)
    except CTVideoError as error:
        raise ModelLoadError(f"{name}: {error}. Copy the file again or delete it.") from error
    attention = _load_attention(path, model, name)
    return LoadedModel(
        model, processor, name, revision, commit, training, calibration, attention, path
    )


def _load_attention(path: Path, model: PreTrainedModel, name: str) -> AttentionHead | None:
    from ..training.features import weights_hash

    try:
        head = read_attention(path)
    except CTVideoError as error:
        raise ModelLoadError(f"{name}: {error}. Copy the file again or delete both.") from error
    if head is None:
        return None
    exported = getattr(model, "parity", None)
    digest = weights_hash(model) if exported is None else exported.get("attention_weights_sha256")
    if head.weights_sha256 != digest or len(head.labels) != model.config.num_labels:
        raise ModelLoadError(
            f"The attention head of {name} was fitted on other weights than those beside it. "
            f"Delete attention.json and attention.safetensors. {how_to_fit(name)}"
        )
    return head


def _check_config(path: Path, name: str) -> None:
    config = path / "config.json"
    if not config.is_file():
        raise ModelLoadError(
            f"{name} is not a model folder: it has no config.json. Expected are config.json, "
            f"model.safetensors and {_PROCESSOR_FILE}, as training writes them."
        )
    if not _read_json(config, name).get("model_type"):
        raise ModelLoadError(f"config.json of {name} names no model_type; is it another program's?")


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelLoadError(f"{path.name} of {name} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path.name} of {name} holds no JSON object.")
    return content


def _load_processor(path: Path, name: str) -> CTVideoProcessor:
    from ..models import CTVideoProcessor

    file = path / _PROCESSOR_FILE
    if not file.is_file():
        raise ModelLoadError(
            f"{name} has no {_PROCESSOR_FILE}, so nothing says how its scans were prepared. Save "
            "the processor that it was trained with: processor.save_pretrained(folder)."
        )
    kind = _read_json(file, name).get("video_processor_type")
    if kind != "CTVideoProcessor":
        raise ModelLoadError(
            f"{name} was saved with the processor {kind!r}, which does not take Hounsfield units. "
            "Save a CTVideoProcessor beside the model."
        )
    try:
        return CTVideoProcessor.from_pretrained(path)
    except (TypeError, ValueError) as error:
        raise ModelLoadError(f"{_PROCESSOR_FILE} of {name} is not usable: {error}") from error


def _load_network(path: Path, name: str) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForVideoClassification

    from ..models.base import align_weights
    from ..models.transformers_video import accept_clips

    if not list(path.glob("model*.safetensors")):
        raise ModelLoadError(
            f"{name} has no weights in safetensors form (model.safetensors). Pickled weights are "
            "not read; convert them with save_pretrained. A graph is run where `ct-video-hf "
            "export` wrote it, with its parity.json."
        )
    try:
        with no_transformers_bars():
            model, info = AutoModelForVideoClassification.from_pretrained(
                path,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except SafetensorError as error:
        raise ModelLoadError(
            f"The weights of {name} are damaged ({error}). Fetch or copy them again."
        ) from error
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelLoadError(_network_words(path, name, error)) from error
    missing = sorted(info["missing_keys"])
    if missing:  # they would be random numbers
        raise ModelLoadError(
            f"The weights of {name} lack {len(missing)} tensors of its network, such as "
            f"{missing[0]}. It is no finished classifier."
        )
    align_weights(model)
    return accept_clips(model).eval().requires_grad_(False)


def _network_words(path: Path, name: str, error: Exception) -> str:
    model_type = _read_json(path / "config.json", name).get("model_type")
    if "trust_remote_code" in str(error):
        return (
            f"{name} (model_type {model_type!r}) needs code of its own, which is never run here. "
            "Install the package that defines it and import it first."
        )
    return f"{name} (model_type {model_type!r}) cannot be loaded: {error}"


def _check_fit(config: Any, processor: CTVideoProcessor, name: str) -> None:
    from ..models.transformers_video import FAMILIES, clip_input

    given = (processor.num_frames, processor.plane_size, processor.num_channels)
    family = FAMILIES.get(config.model_type)
    for entry, meant, made in zip(
        ("num_frames", "image_size", "num_channels"), clip_input(config), given, strict=True
    ):
        if meant in (None, made):
            continue
        if entry == "num_channels":
            raise ModelLoadError(
                f"{name}: the network takes {meant} channels and its processor makes {made}. "
                "Save the processor that the model was trained with."
            )
        if family is not None and not family.any_clip:
            raise ModelLoadError(
                f"{name}: a {family.title} takes {entry} {meant} and nothing else, and its "
                f"processor makes {made}. Save the processor that the model was trained with."
            )
        logger.warning(
            "%s: the configuration says %s %s, its processor makes %s", name, entry, meant, made
        )
