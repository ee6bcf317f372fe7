"""Makes transformers know this package's models and its pipeline, without importing transformers.

``import ct_video_hf`` has to register its models with ``AutoConfig`` and its siblings, and its task
with ``transformers.pipeline``, yet ``ct-video-hf --help`` has to answer at once, and importing
transformers and torch takes seconds. So each registration waits for transformers' modules that it
is about, whoever imports them, or runs at once when they are there already.

transformers imports its auto modules in the middle of others, such as ``modeling_utils``, which
this package's models need whole. So the registration runs when the outermost import of a
transformers module has ended.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from types import ModuleType

__all__ = ["register_when_transformers_is_imported"]

_LIBRARY = "transformers"
_AUTO_PACKAGE = f"{_LIBRARY}.models.auto"
# Each of the Auto classes lives in one of these; whichever is imported first triggers us.
_AUTO_MODULES = frozenset(
    f"{_AUTO_PACKAGE}.{name}"
    for name in ("configuration_auto", "modeling_auto", "video_processing_auto", "processing_auto")
)
#: Our module whose import registers, and the modules of transformers any of which makes it due.
_DUE = {
    "ct_video_hf.models": _AUTO_MODULES,
    "ct_video_hf._pipeline_task": frozenset({f"{_LIBRARY}.pipelines"}),
}


class _Counted(importlib.abc.Loader):
    """Loads a module as its own loader would, and tells the finder when that is done."""

    def __init__(self, loader: importlib.abc.Loader, finder: _TransformersFinder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        running = self._finder.running
        running.depth = getattr(running, "depth", 0) + 1
        try:
            self._loader.exec_module(module)
        finally:
            running.depth -= 1
        if running.depth == 0:
            self._finder.register_if_due()


class _TransformersFinder(importlib.abc.MetaPathFinder):
    """Watches imports of transformers' modules until everything is registered."""

    def __init__(self) -> None:
        self.waiting = dict(_DUE)
        #: ``depth``: modules of transformers that this thread is in the middle of importing.
        self.running = threading.local()

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _LIBRARY and not fullname.startswith(f"{_LIBRARY}."):
            return None
        for finder in list(sys.meta_path):
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Counted(spec.loader, self)
                return spec
        return None

    def register_if_due(self) -> None:
        """Import what is due of ours, and watch no longer once nothing is waiting."""
        for module, triggers in list(self.waiting.items()):
            if triggers & sys.modules.keys() and self.waiting.pop(module, None) is not None:
                if not self.waiting and self in sys.meta_path:
                    sys.meta_path.remove(self)
                importlib.import_module(module)


def register_when_transformers_is_imported() -> None:
    """Register models and pipeline now if transformers' modules are loaded, else then."""
    if any(isinstance(finder, _TransformersFinder) for finder in sys.meta_path):
        return
    finder = _TransformersFinder()
    sys.meta_path.insert(0, finder)
    finder.register_if_due()
