"""What can be said about a training run: names, defaults, presets, files; standard library only.

``ct-video-hf train --help`` reads this module, so it must not import torch or transformers. Any
field of transformers' ``TrainingArguments`` that is not named here may be given as well; those are
checked in :mod:`ct_video_hf.training.arguments`, once transformers is imported anyway.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .option import Option, OptionError, did_you_mean
from .option_list import ALIASES, GROUPS, OPTIONS, PRESETS, read_flag

__all__ = [
    "ALIASES",
    "OPTIONS",
    "PRESETS",
    "Option",
    "OptionError",
    "add_options",
    "did_you_mean",
    "parse_extras",
    "read_config",
    "read_record",
    "resolve",
]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare every option, in groups; what is not said is absent from the namespace."""
    for title in GROUPS:
        group = parser.add_argument_group(title)
        for option in (entry for entry in OPTIONS.values() if entry.group == title):
            _add_option(group, option)


def _add_option(group, option: Option) -> None:
    text = option.help
    if option.default is not None and option.parse is not read_flag:
        text += (
            f" (default: {option.default:g})"
            if isinstance(option.default, float)
            else (f" (default: {option.default})")
        )
    kwargs: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS}
    kwargs["help"] = text.replace("%", "%%")
    if option.choices:
        kwargs["choices"] = option.choices
    else:
        kwargs["metavar"] = option.metavar
    if option.several:
        kwargs["nargs"] = "+"
    if option.parse is read_flag:
        kwargs.update(nargs="?", const="true")
    group.add_argument(f"--{option.name.replace('_', '-')}", **kwargs)


def parse_extras(words: list[str]) -> dict[str, Any]:
    """``--name value``, ``--name=value`` and bare ``--flag`` words that no option above took."""
    extras: dict[str, Any] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if name in extras:
                raise OptionError(f"--{name} is given twice")
            extras[name] = [value] if value else []
        elif name is None:
            raise OptionError(f"unexpected argument {word!r}; options are written --name value")
        else:
            extras[name].append(word)
    return {
        key: "true" if not values else values[0] if len(values) == 1 else values
        for key, values in extras.items()
    }


def read_config(path) -> dict[str, Any]:
    """Options from one YAML or JSON file; keys are option names, with - or _ between words.

    Of a finished run's training_config.json the options of that run, but for where its data and
    its output were.
    """
    content = _read_file(Path(path))
    if _is_record(content):
        places = ("data", "output", "resume", "other_inputs")
        return {name: value for name, value in content["arguments"].items() if name not in places}
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def read_record(path) -> dict[str, Any] | None:
    """The record of a finished run where the file is one; None for a plain file of options."""
    content = _read_file(Path(path))
    return content if _is_record(content) else None


def _is_record(content: dict[str, Any]) -> bool:
    return all(isinstance(content.get(key), dict) for key in ("arguments", "versions"))


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise OptionError(f"no configuration file {path}")
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".json":
            content = json.loads(text)
        else:
            import yaml

            content = yaml.safe_load(text)
    except ValueError as error:  # json
        raise OptionError(f"{path.name} is not valid JSON: {error}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path.name} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise OptionError(f"{path.name} must hold option: value lines, found {type(content)}")
    return content


def _named(given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The same values under our own names; an option said twice under two names is refused."""
    named: dict[str, Any] = {}
    for key, value in given.items():
        name = ALIASES.get(key, key)
        if name in named:
            raise OptionError(f"{source}: {key} and {name} are one option, give it once")
        named[name] = value
    return named


def resolve(*sources: tuple[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Effective options: defaults, then the preset, then each source; later ones win.

    Parameters
    ----------
    *sources : (str, mapping)
        A name for messages ("the command line") and what was said there.

    Returns
    -------
    options : dict
        A value for every option in :data:`OPTIONS`.
    extras : dict
        What else was said: fields of ``TrainingArguments``, unchecked.
    """
    said: dict[str, Any] = {}
    for source, given in sources:
        said |= _named(given, source)
    extras = {name: value for name, value in said.items() if name not in OPTIONS}
    chosen = {name: OPTIONS[name].read(value) for name, value in said.items() if name in OPTIONS}
    defaults = {name: option.default for name, option in OPTIONS.items()}
    preset = PRESETS[chosen.get("preset", "default")]
    options = defaults | preset | chosen
    missing = [name for name, option in OPTIONS.items() if option.required and not options[name]]
    if missing:
        raise OptionError(
            "needed and not given: "
            + ", ".join(f"--{name}" for name in missing)
            + " (on the command line or in the file of --config)"
        )
    return options, extras
