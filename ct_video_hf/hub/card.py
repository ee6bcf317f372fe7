"""The model card: facts from the files of a model folder, rendered through one template.

:mod:`.card_facts` collects them, :mod:`.card_rows` and :mod:`.card_words` put them into tables and
sentences; what the files lack is "not measured" or "not stated".
"""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path

from ..errors import CTVideoError
from ..files import replacing
from .card_calibration import point_rows
from .card_export import export_rows
from .card_facts import ModelCardFacts
from .card_metadata import metadata
from .card_rows import (
    aggregation_code,
    model_rows,
    processor_rows,
    result_rows,
    split_rows,
    subgroup_rows,
    training_rows,
    versions_line,
    weight_rows,
)
from .card_words import sentences

__all__ = ["ModelCardFacts", "render_model_card", "write_model_card"]

_CITATION = """\
@inproceedings{ke2023video,
  title     = {Video pretraining advances {3D} deep learning on chest {CT} tasks},
  author    = {Ke, Alexander and Huang, Shih-Cheng and O'Connell, Chloe P and Klimont, Michal
               and Yeung, Serena and Rajpurkar, Pranav},
  booktitle = {Medical Imaging with Deep Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {227},
  pages     = {758--774},
  year      = {2023}
}"""


def write_model_card(
    model_dir: str | os.PathLike,
    *,
    model_id: str | None = None,
    license: str | None = None,
    out: str | os.PathLike | None = None,
) -> Path:
    """Render the card of a model folder and put it in place.

    Parameters
    ----------
    model_dir : path-like
        A folder that training wrote, or any with configuration and processor.
    model_id : str, optional
        The Hub id that it will have; default: the folder's name.
    license : str, optional
        Identifier of the licence that these weights are published under.
    out : path-like, optional
        Where to write; default: ``README.md`` in the folder.

    Returns
    -------
    pathlib.Path
        The file written; an older one is replaced only by a complete one.

    Raises
    ------
    CTVideoError
        When the folder lacks what a card needs, or the card would not pass
        :func:`.card_check.check_card_text`.
    """
    from .card_check import check_card_text

    facts = ModelCardFacts.from_folder(model_dir, model_id=model_id, license=license)
    text = render_model_card(facts)
    problems = check_card_text(text)
    if problems:
        raise CTVideoError(f"The card of {facts.name} is not sound: {'; '.join(problems)}.")
    path = Path(out) if out is not None else Path(model_dir) / "README.md"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    return path


def render_model_card(facts: ModelCardFacts) -> str:
    """The card's text, metadata included."""
    import jinja2

    source = resources.files(__package__).joinpath("templates/model_card.md.jinja")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    template = environment.from_string(source.read_text(encoding="utf-8"))
    training, metrics = facts.training, facts.metrics
    record = training or facts.conversion
    confidence = metrics.get("confidence")
    text = template.render(
        sentences(facts),
        metadata=metadata(facts),
        name=facts.name,
        backbone=facts.backbone,
        model_id=facts.model_id,
        model_rows=model_rows(facts.config, record, facts.labels),
        weight_rows=weight_rows(training, facts.license, facts.conversion),
        converted=bool(facts.conversion),
        export_rows=export_rows(facts.parity) if facts.parity else [],
        split_rows=split_rows(training),
        processor_rows=processor_rows(facts.processor),
        training_rows=training_rows(training),
        command=training.get("command"),
        aggregation_code=aggregation_code(*facts.aggregation, facts.config, facts.model_id),
        result_rows=result_rows(metrics),
        interval_name=f"{100 * confidence:.0f} % interval" if confidence else "interval",
        figures=facts.figures,
        point_rows=point_rows(metrics),
        subgroup_rows=subgroup_rows(metrics),
        versions=versions_line(record),
        citation=_CITATION,
    )
    return re.sub(r"\n{3,}", "\n\n", text)
