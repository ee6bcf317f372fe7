"""The design of a study as data: models, pretraining arms, data sets, fractions, seeds, rates.

Standard library and YAML only: reading a design must not need torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import CTVideoError
from ..training.options import ALIASES, OPTIONS, did_you_mean, read_config

__all__ = ["Arm", "ModelPlan", "Search", "StudyConfig", "StudyData", "read_study", "shipped"]

#: Options that the grid sets itself.
_GRID_OPTIONS = frozenset({"data", "output", "backbone", "weights", "fraction", "seed", "lr"})


@dataclass(frozen=True)
class StudyData:
    """A data set of the study.

    Attributes
    ----------
    name : str
    set : pathlib.Path
        Folder of the prepared set.
    prepare : mapping
        How to make it where it is missing: ``source``, ``data_dir``, fields of
        ``PrepareOptions`` and options of the source. Empty: it has to be there.
    training : mapping
        Options of ``ct-video-hf train`` for this set.
    evaluate : bool
        False for a set that is only learned from.
    expected : mapping
        ``train_clips`` and ``scored_clips`` for planning while the set is not there yet.
    title : str
    """

    name: str
    set: Path
    prepare: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluate: bool = True
    expected: Mapping[str, int] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Arm:
    """A way to begin: weights by name or path, or a run of this study on another data set.

    Attributes
    ----------
    name : str
    weights : str
        ``none``, a name of published weights, a path or a Hub id.
    source : mapping of str to str
        Data set -> data set that is learned first; empty where nothing is.
    start : str
        The arm that the run on the source begins with.
    title : str
    """

    name: str
    weights: str = "none"
    source: Mapping[str, str] = field(default_factory=dict)
    start: str = ""
    title: str = ""


@dataclass(frozen=True)
class ModelPlan:
    """A network of the study.

    Attributes
    ----------
    name : str
        Of the registry.
    kind : {"3d", "2d"}
        Means and differences are over the 3d ones; 2d ones stand beside them.
    arms : tuple of str
    weights : mapping of str to str
        Arm -> weights that replace the arm's, such as a checkpoint that has no public address.
    training : mapping
        Options of ``ct-video-hf train`` for this network.
    """

    name: str
    kind: str = "3d"
    arms: tuple[str, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """The learning-rate search: every rate on ``fraction`` of the data, the best is kept."""

    fraction: float
    seed: int = 0


@dataclass(frozen=True)
class StudyConfig:
    """A whole study; see the fields of its parts.

    ``folder`` is where the runs and the report go; relative paths in the file are relative to the
    file. ``contrasts`` are pairs of arms (a, b) whose difference a - b is tested.
    """

    name: str
    folder: Path
    data: tuple[StudyData, ...]
    arms: tuple[Arm, ...]
    models: tuple[ModelPlan, ...]
    fractions: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0,)
    learning_rates: tuple[float, ...] = (3e-4,)
    search: Search | None = None
    contrasts: tuple[tuple[str, str], ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    resamples: int = 2000
    keep_weights: str = "needed"
    title: str = ""
    description: str = ""

    def dataset(self, name: str) -> StudyData:
        """The data set called ``name``."""
        return next(entry for entry in self.data if entry.name == name)

    def arm(self, name: str) -> Arm:
        """The arm called ``name``."""
        return next(entry for entry in self.arms if entry.name == name)

    def model(self, name: str) -> ModelPlan:
        """The network called ``name``."""
        return next(entry for entry in self.models if entry.name == name)


def shipped() -> dict[str, Path]:
    """Designs that come with the package: name -> file."""
    folder = resources.files(__package__) / "designs"
    return {Path(str(file)).stem: Path(str(file)) for file in sorted(folder.iterdir(), key=str)}


def read_study(path, *, folder=None) -> StudyConfig:
    """Read and check a study's YAML or JSON file, or a shipped design by name.

    Parameters
    ----------
    path : path or str
        A file, or a name in :func:`shipped`. Relative paths inside are relative to the file; in a
        shipped design to the folder that the study is run in.
    folder : path, optional
        Where the study goes, instead of the file's ``folder``.

    Raises
    ------
    CTVideoError
        Unknown keys or names, values out of range, arms that have no beginning.
    """
    by_name = shipped().get(str(path))
    file = by_name or Path(path)
    if not file.is_file():
        known = ", ".join(shipped())
        raise CTVideoError(f"there is no study file {path}, and no design of that name ({known})")
    content = read_config(file)
    reader = _Reader(file.name, Path.cwd() if by_name else file.resolve().parent)
    if folder is not None:
        content["folder"] = str(Path(folder).resolve())
    return reader.study(content)


class _Reader:
    """Turns what a file says into a :class:`StudyConfig`, naming the place of every slip."""

    def __init__(self, file: str, base: Path) -> None:
        self.file = file
        self.base = base

    def fail(self, where: str, problem: str) -> CTVideoError:
        return CTVideoError(f"{self.file}, {where}: {problem}")

    def check_keys(self, where: str, value: Any, known: Sequence[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(where, f"name: value lines are expected, found {value!r}")
        for key in value:
            if key not in known:
                hint = did_you_mean(str(key), known)
                raise self.fail(where, f"unknown key {key!r}{hint}; known: {', '.join(known)}")
        return value

    def study(self, content: dict[str, Any]) -> StudyConfig:
        names = [entry.name for entry in dataclasses.fields(StudyConfig)]
        names[names.index("arms")] = "pretraining"
        self.check_keys("the top level", content, names)
        for name in ("name", "data", "pretraining", "models"):
            if not content.get(name):
                raise self.fail("the top level", f"{name} is needed")
        data = tuple(self.data_set(*item) for item in self._named("data", content).items())
        arms = tuple(self.arm(*item) for item in self._named("pretraining", content).items())
        arm_names = tuple(entry.name for entry in arms)
        models = tuple(
            self.model(name, value, arm_names)
            for name, value in self._named("models", content).items()
        )
        config = StudyConfig(
            name=str(content["name"]),
            folder=self.path(content.get("folder") or f"study_{content['name']}"),
            data=data,
            arms=arms,
            models=models,
            fractions=self.numbers(content, "fractions", (1.0,), 0, 1),
            seeds=tuple(int(seed) for seed in self.numbers(content, "seeds", (0,), -1, 2**31)),
            learning_rates=self.numbers(content, "learning_rates", (3e-4,), 0, 1e12),
            search=self.search(content.get("search")),
            contrasts=self.contrasts(content.get("contrasts") or [], arm_names),
            training=self.training("training", content.get("training") or {}),
            resamples=int(content.get("resamples", 2000)),
            keep_weights=str(content.get("keep_weights", "needed")),
            title=str(content.get("title") or content["name"]),
            description=str(content.get("description") or "").strip(),
        )
        self.check(config)
        return config

    def _named(self, key: str, content: dict[str, Any]) -> dict[str, Any]:
        value = content[key]
        if isinstance(value, list):
            value = {str(name): {} for name in value}
        if not isinstance(value, dict):
            raise self.fail(key, f"a list of names, or name: settings, found {value!r}")
        return {str(name): entry or {} for name, entry in value.items()}

    def path(self, text: Any) -> Path:
        return self.base / Path(str(text)).expanduser()

    def numbers(self, content, key, default, above, most) -> tuple[float, ...]:
        value = content.get(key, default)
        values = value if isinstance(value, list | tuple) else [value]
        try:
            numbers = [float(entry) for entry in values]
        except (TypeError, ValueError):
            raise self.fail(key, f"numbers are expected, found {value!r}") from None
        wrong = [number for number in numbers if not above < number <= most]
        if wrong or not numbers:
            raise self.fail(key, f"{value!r}; above {above} and at most {most:g} is expected")
        if len(set(numbers)) != len(numbers):
            raise self.fail(key, f"a number appears twice in {value!r}")
        return tuple(numbers)

    def search(self, value: Any) -> Search | None:
        if not value:
            return None
        self.check_keys("search", value, ["fraction", "seed"])
        fraction = self.numbers(value, "fraction", (0.1,), 0, 1)[0]
        return Search(fraction, int(value.get("seed", 0)))

    def contrasts(self, value: Any, arms: Sequence[str]) -> tuple[tuple[str, str], ...]:
        pairs = []
        for pair in value:
            if not isinstance(pair, list) or len(pair) != 2:
                raise self.fail("contrasts", f"pairs [a, b] of arms are expected, found {pair!r}")
            for name in pair:
                if name not in arms:
                    raise self.fail("contrasts", f"there is no arm {name!r}; {', '.join(arms)}")
            pairs.append((str(pair[0]), str(pair[1])))
        return tuple(pairs)

    def training(self, where: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(where, f"option: value lines are expected, found {value!r}")
        options = {ALIASES.get(key, key): entry for key, entry in value.items()}
        for name, entry in options.items():
            if name in _GRID_OPTIONS:
                raise self.fail(where, f"{name} is set by the grid, not here")
            if name in OPTIONS:
                OPTIONS[name].read(entry)
        return options

    def data_set(self, name: str, value: Any) -> StudyData:
        where = f"data {name}"
        known = ["set", "prepare", "training", "evaluate", "expected", "title"]
        self.check_keys(where, value, known)
        if "set" not in value:
            raise self.fail(where, "set is needed, the folder of the prepared set")
        prepare = dict(value.get("prepare") or {})
        if prepare and not {"source", "data_dir"} <= prepare.keys():
            raise self.fail(where, "prepare needs source and data_dir")
        if prepare:
            prepare["data_dir"] = str(self.path(prepare["data_dir"]))
        return StudyData(
            name=name,
            set=self.path(value["set"]),
            prepare=prepare,
            training=self.training(f"{where}, training", value.get("training") or {}),
            evaluate=bool(value.get("evaluate", True)),
            expected=dict(value.get("expected") or {}),
            title=str(value.get("title") or name),
        )

    def arm(self, name: str, value: Any) -> Arm:
        self.check_keys(f"pretraining {name}", value, ["weights", "from", "start", "title"])
        source = value.get("from") or {}
        if not isinstance(source, dict):
            source = {"*": str(source)}
        return Arm(
            name=name,
            weights=self.weights(value.get("weights", "none")),
            source={str(key): str(entry) for key, entry in source.items()},
            start=str(value.get("start") or ""),
            title=str(value.get("title") or name),
        )

    def weights(self, value: Any) -> str:
        """A path that exists beside the file is made whole; names and Hub ids stay."""
        path = self.path(value)
        return str(path) if path.exists() else str(value)

    def model(self, name: str, value: Any, arms: tuple[str, ...]) -> ModelPlan:
        where = f"models {name}"
        self.check_keys(where, value, ["kind", "pretraining", "weights", "training"])
        kind = str(value.get("kind", "3d"))
        if kind not in ("3d", "2d"):
            raise self.fail(where, f"kind is 3d or 2d, found {kind!r}")
        own = tuple(value.get("pretraining") or arms)
        for arm in (*own, *(value.get("weights") or {})):
            if arm not in arms:
                raise self.fail(where, f"there is no arm {arm!r}; known: {', '.join(arms)}")
        weights = {arm: self.weights(entry) for arm, entry in (value.get("weights") or {}).items()}
        training = self.training(f"{where}, training", value.get("training") or {})
        return ModelPlan(name, kind, own, weights, training)

    def check(self, config: StudyConfig) -> None:
        names = {entry.name for entry in config.data}
        arms = {entry.name for entry in config.arms}
        if not any(entry.evaluate for entry in config.data):
            raise self.fail("data", "no data set is evaluated")
        if config.keep_weights not in ("needed", "all", "none"):
            raise self.fail("keep_weights", f"{config.keep_weights!r}; needed, all or none")
        if len(config.learning_rates) > 1 and config.search is None:
            raise self.fail(
                "learning_rates",
                "several rates need search: {fraction: ..., seed: ...}, which finds the best",
            )
        for arm in config.arms:
            if not arm.source:
                continue
            if arm.start not in arms or config.arm(arm.start).source:
                raise self.fail(
                    f"pretraining {arm.name}",
                    f"start is {arm.start!r}; an arm without from: is needed to begin with",
                )
            for target, source in arm.source.items():
                unknown = {target, source} - names - {"*"}
                if unknown:
                    raise self.fail(
                        f"pretraining {arm.name}", f"there is no data set {', '.join(unknown)}"
                    )
                if target == source:
                    raise self.fail(f"pretraining {arm.name}", f"{target} is its own source")
