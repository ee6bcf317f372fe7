"""What others meet on the Hub: model folders, model cards, and prepared sets."""

from .calls import HubError
from .card import ModelCardFacts, render_model_card, write_model_card
from .card_check import check_card_text, check_model_card
from .convert import convert_checkpoint, describe_registry, download_weights
from .model_folder import check_model_folder, find_local_paths, save_model_folder
from .model_repo import ModelPush, push_model
from .set_repo import PushSummary, push_set

__all__ = [
    "HubError",
    "ModelCardFacts",
    "ModelPush",
    "PushSummary",
    "check_card_text",
    "check_model_card",
    "check_model_folder",
    "convert_checkpoint",
    "describe_registry",
    "download_weights",
    "find_local_paths",
    "push_model",
    "push_set",
    "render_model_card",
    "save_model_folder",
    "write_model_card",
]
