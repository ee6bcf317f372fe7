"""The data card of a prepared set: README.md with the Hub's metadata at its head."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .labels import SPLITS
from .manifest import count_findings, is_positive, write_text
from .sharing import reasons_against_sharing

if TYPE_CHECKING:
    import jinja2

__all__ = ["render_data_card", "write_data_card"]

_TEMPLATE = """\
---
license: other
tags:
- medical
- computed-tomography
- chest
- ct-video-hf
pretty_name: {{ provenance.name | tojson }}
---

# Prepared set: {{ provenance.name }}

**Not for clinical use.** {{ provenance.description }}

Licence of the source: {{ provenance.licence }}
{% if provenance.citation %}
Cite: {{ provenance.citation }}
{% endif -%}
{% if against %}
**Not to be made public:** {{ against | join("; ") }}.
{% endif %}
## Contents

| split | studies | patients | slices | positive studies | positive slices |
| --- | ---: | ---: | ---: | ---: | ---: |
{% for row in rows -%}
| {{ row.split }} | {{ row.studies }} | {{ row.patients }} | {{ row.slices }} | \
{{ row.positive }} | {{ row.positive_slices }} |
{% endfor %}
{% if labels -%}
Labels: {{ labels | join(", ") }}.
{%- if finding is not none %}
A study counts as positive when `{{ labels[finding] }}` is 1.
{%- endif %}
{%- if weights %}
Weights of the official metric, in the order of the labels: {{ weights | join(", ") }}.
{%- endif %}
{% else -%}
The set has no labels.
{% endif -%}
{% if unknown_slices -%}
In {{ unknown_slices }} studies nothing is known of single slices; their clips take the study's
label.
{% endif -%}
{% if remarks -%}
In {{ remarks }} studies the labels do not fit the scan in every respect; `manifest.json` says how
(`remarks`).
{% endif -%}
{% if not patients_known -%}
The labels table did not say which studies are of one patient: each study counts as a patient, and
splits may share patients.
{% endif %}
## Geometry

| | least | median | most |
| --- | ---: | ---: | ---: |
| slices a study | {{ slices | join(" | ") }} |
| slice spacing, mm | {{ spacing | join(" | ") }} |
| pixel spacing after fitting, mm | {{ pixel | join(" | ") }} |

Planes are {{ parameters.size }} x {{ parameters.size }} pixels. Slices run from feet to head, rows
to the back, columns to the left. Geometry policy: `{{ parameters.policy }}`.
{% if findings %}
Warnings of the reader, and how many studies have them:

| finding | studies |
| --- | ---: |
{% for code, count in findings.items() -%}
| `{{ code }}` | {{ count }} |
{% endfor %}
{%- endif %}
{%- if rejects %}
## Left out

{{ rejects | sum(attribute="count") }} studies could not be read:

| reason | studies |
| --- | ---: |
{% for reject in rejects -%}
| `{{ reject.code }}` | {{ reject.count }} |
{% endfor %}
{%- endif %}
## Columns

{% if parameters.store_window -%}
One row a study. `volume` holds the HU window of centre {{ parameters.store_window[0] }} and width
{{ parameters.store_window[1] }} (`window`) as uint8 in (slice, row, column) order, 0 at its lower
end and 255 at its upper; the set serves no other window. `shape`
{%- else -%}
One row a study. `volume` holds Hounsfield units + 1024 as little-endian uint16 in (slice, row,
column) order, `shape`
{%- endif %} its size, `spacing` mm in the same order, `z_mm` the position of each slice,
`slice_labels` 0, 1 or -1 (unknown), empty when nothing is known of single slices\
{% if labels | length > 1 %}, else all labels
of the first slice, then of the next{% endif %}; `study_label` and `labels` the study's, -1 where
unknown; `report` what reading the scan found.
`patient_hash` is a salted hash{{ ", and so is `study_id`" if parameters.hashed_study_ids }}. The \
salt lies in `private/`, which must never be shared.
{%- if parameters.slice_ids %}
`slice_ids` holds SOP Instance UIDs, which identify: do not share this set.
{%- endif %}

`splits.csv` says the split of each study, `fractions.csv` the smallest of the nested shares of the
training patients (1, 5, 10, 25, 50, 100 %) that holds it.

```python
from ct_video_hf import load_ct_dataset

dataset = load_ct_dataset("path/to/this/folder", split="train")
```

{% if side_tables -%}
Beside the studies lie tables ({{ side_tables | join(", ") }}), whose column `study` is the
`study_id`:

```python
from ct_video_hf.data import load_side_table

table = load_side_table("path/to/this/folder", "{{ side_tables[0] }}")
```

{% endif -%}
Made with {% for library, version in versions.items() -%}
{{ library }} {{ version }}{{ ", " if not loop.last else "." }}
{%- endfor %}
"""


def render_data_card(manifest: dict[str, Any], rejects: list[dict[str, str]]) -> str:
    """The text of the card from a manifest and the rejects of the run."""
    studies = manifest["studies"]
    codes = Counter(reject["code"] for reject in rejects)
    return _template().render(
        provenance=manifest["provenance"],
        against=reasons_against_sharing(manifest),
        rows=[_counts(split, studies) for split in SPLITS],
        labels=manifest["label_names"],
        weights=manifest.get("label_weights", []),
        finding=manifest.get("finding"),
        unknown_slices=sum(record["positive_slices"] is None for record in studies),
        remarks=sum(bool(record.get("remarks")) for record in studies),
        side_tables=sorted(manifest.get("side_tables", {})),
        patients_known=manifest["patients_known"],
        slices=_spread([record["shape"][0] for record in studies], 0),
        spacing=_spread([record["spacing"][0] for record in studies], 2),
        pixel=_spread([record["spacing"][1] for record in studies], 2),
        parameters=manifest["parameters"],
        findings=count_findings(studies),
        rejects=[{"code": code, "count": count} for code, count in sorted(codes.items())],
        versions=manifest["versions"],
    )


@cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_TEMPLATE)


def _counts(split: str, studies: list[dict[str, Any]]) -> dict[str, Any]:
    members = [record for record in studies if record["split"] == split]
    return {
        "split": split,
        "studies": len(members),
        "patients": len({record["patient_hash"] for record in members}),
        "slices": sum(record["shape"][0] for record in members),
        "positive": sum(is_positive(record) for record in members),
        "positive_slices": sum(record["positive_slices"] or 0 for record in members),
    }


def _spread(values: list[float], digits: int) -> list[str]:
    return [f"{value:.{digits}f}" for value in (min(values), np.median(values), max(values))]


def write_data_card(folder: Path, manifest: dict[str, Any], rejects: list[dict[str, str]]) -> None:
    """Write README.md of a prepared set."""
    write_text(folder / "README.md", render_data_card(manifest, rejects))
