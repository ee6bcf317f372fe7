"""Serving the page, on this machine or on a Space."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CTVideoError
from .limits import DemoLimits

__all__ = ["Running", "read_examples", "serve", "serve_space"]

_INDEX = "examples.json"
_ENDS = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is not known to Windows


@dataclass
class Running:
    """A demo that is being served; :meth:`close` ends it and deletes everything that it kept."""

    page: Any
    scorer: Any
    url: str

    def wait(self) -> None:
        """Serve until the process is told to end (Ctrl-C, SIGTERM, SIGHUP), then close.

        What the process was started to ignore (nohup) it ignores; one more Ctrl-C does not stop the
        deleting.
        """
        told = []  # no Event: a handler that sets one may wait for what its own thread holds
        heeded = [getattr(signal, name) for name in _ENDS if hasattr(signal, name)]
        before = {
            number: signal.signal(number, lambda *_: told.append("end"))
            for number in heeded
            if signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            while not told:
                time.sleep(0.2)
        finally:
            self.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Stop serving, end what is under way, delete uploads and volumes."""
        self.page.close(verbose=False)
        self.scorer.close()
        self.scorer.store.close()


def serve(
    model: str | os.PathLike,
    *,
    revision: str | None = None,
    device: str | None = None,
    label: str | None = None,
    host: str | None = None,
    port: int | None = None,
    open_browser: bool = False,
    examples: str | os.PathLike | None = None,
    limits: DemoLimits | None = None,
) -> Running:
    """Load a model and serve its demo in the background.

    Parameters
    ----------
    model : str or path
        A model folder or a Hub id.
    revision, device, label
        As of :func:`ct_video_hf.pipeline`.
    host : str, optional
        Default: this machine alone, or what ``GRADIO_SERVER_NAME`` says (Spaces set it).
    port : int, optional
        Default: the first free one from 7860.
    open_browser : bool
    examples : path, optional
        A folder with example scans and an ``examples.json`` (see :func:`read_examples`).
    limits : DemoLimits, optional

    Returns
    -------
    Running

    Raises
    ------
    CTVideoError
        Without the extra ``demo``, or where the model cannot be loaded or the port not be had.
    """
    _need_gradio()
    limits = limits or DemoLimits()
    listed = [] if examples is None else read_examples(examples)
    from starlette.middleware import Middleware

    from ..inference import pipeline
    from .app import build_page, look
    from .content_policy import LocalContent
    from .door import Door
    from .routes import routes
    from .store import Store
    from .work import Scorer

    predict = pipeline(model, revision=revision, device=device, label=label)
    store = Store(limits)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(store.uploads)  # Gradio's own is shared by all its users
    scorer = Scorer(predict, store, limits)
    page = build_page(scorer, limits, listed)
    page.queue(api_open=False, max_size=limits.waiting)
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,  # it would send scans through Gradio's servers
            inbrowser=open_browser,
            quiet=True,
            prevent_thread_lock=True,
            app_kwargs={
                "routes": routes(store),
                "middleware": [
                    Middleware(LocalContent),
                    Middleware(Door, store=store, limits=limits),
                ],
            },
            max_file_size=limits.upload_bytes,
            footer_links=[],
            run_history=False,  # it would keep results in the visitor's browser
            enable_monitoring=False,
            pwa=False,
            ssr_mode=False,
            mcp_server=False,
            **look(),
        )
    except BaseException as error:
        store.close()
        if not isinstance(error, OSError):
            raise
        raise CTVideoError(
            f"The demo cannot be served on port {port or '7860 and those above'}: {error}"
        ) from error
    scorer.warm()
    return Running(page, scorer, url)


def serve_space(model: str, *, revision: str | None = None) -> None:
    """Serve until the end, as the ``app.py`` of a Space does.

    Examples are taken from the folder ``examples`` beside it.
    """
    folder = Path("examples")
    serve(model, revision=revision, examples=folder if (folder / _INDEX).is_file() else None).wait()


def read_examples(folder: str | os.PathLike) -> list[dict[str, str]]:
    """The example scans in a folder.

    ``examples.json`` is a list of objects with ``file``, ``title``, ``words`` (what it is) and
    ``licence``.

    Returns
    -------
    list of dict
        The same with ``path`` for ``file``.

    Raises
    ------
    CTVideoError
        When the list is missing or names a file that is not there.
    """
    folder = Path(folder)
    index = folder / _INDEX
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
        listed = [
            {key: str(entry[key]) for key in ("file", "title", "words", "licence")}
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CTVideoError(
            f"{index.name} in {folder.name} cannot be read as a list of example scans with file, "
            f"title, words and licence ({type(error).__name__}: {error})."
        ) from error
    for entry in listed:
        entry["path"] = str((folder / Path(entry["file"]).name).resolve())
        if not Path(entry["path"]).is_file():
            raise CTVideoError(
                f"{index.name} names {entry['file']}, which is not in {folder.name}."
            )
    return listed


def _need_gradio() -> None:
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise CTVideoError(
            'The demo needs Gradio, which is not installed: pip install "ct-video-hf[demo]"'
        )
