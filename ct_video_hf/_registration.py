"""Makes transformers' Auto classes know this package's models, without importing transformers.

``import ct_video_hf`` has to register its models with ``AutoConfig`` and its siblings, yet
``ct-video-hf --help`` has to answer at once, and importing transformers and torch takes seconds.
So the registration waits: it runs right after transformers' auto module is imported, by whoever
imports it, or at once when that has happened already.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType

__all__ = ["register_when_transformers_is_imported"]

_AUTO_PACKAGE = "transformers.models.auto"
# Each of the Auto classes lives in one of these; whichever is imported first triggers us.
_AUTO_MODULES = frozenset(
    f"{_AUTO_PACKAGE}.{name}"
    for name in ("configuration_auto", "modeling_auto", "video_processing_auto", "processing_auto")
)
_MODELS_PACKAGE = "ct_video_hf.models"


class _RunAfter(importlib.abc.Loader):
    """Loads a module as its own loader would and then imports this package's models."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        importlib.import_module(_MODELS_PACKAGE)


class _AutoModuleFinder(importlib.abc.MetaPathFinder):
    """Steps aside for every import but the first one of a transformers auto module."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in _AUTO_MODULES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None and _MODELS_PACKAGE not in sys.modules:
            spec.loader = _RunAfter(spec.loader)
        return spec


def register_when_transformers_is_imported() -> None:
    """Register this package's models now if transformers' auto modules are loaded, else then."""
    if _AUTO_MODULES & sys.modules.keys():
        importlib.import_module(_MODELS_PACKAGE)
    elif not any(isinstance(finder, _AutoModuleFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoModuleFinder())
