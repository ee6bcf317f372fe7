"""Whole-study prediction: scan in, study probability with clip scores and key slices out."""

from .ensemble import CTVideoEnsemble
from .html_report import render_report, write_html_report
from .loading import LoadedModel, ModelLoadError, attention_for, load_model
from .pictures import study_figure
from .pipeline import CTVideoPipeline, Outcome, pipeline
from .saliency import SaliencyMap
from .saliency_files import write_saliency
from .saliency_pictures import overlay_rgba, saliency_figure
from .studies import Study, find_studies
from .tables import prediction_row, write_predictions

__all__ = [
    "CTVideoEnsemble",
    "CTVideoPipeline",
    "LoadedModel",
    "ModelLoadError",
    "Outcome",
    "SaliencyMap",
    "Study",
    "attention_for",
    "find_studies",
    "load_model",
    "overlay_rgba",
    "pipeline",
    "prediction_row",
    "render_report",
    "saliency_figure",
    "study_figure",
    "write_html_report",
    "write_predictions",
    "write_saliency",
]
