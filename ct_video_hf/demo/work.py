"""What happens to an upload: read, score, keep; a thread each, so that the page can follow."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CTVideoError
from ..inference import prediction_row, render_report, write_predictions
from .limits import DemoLimits
from .reading import read_apart
from .store import Kept, Store
from .uploads import adopt, adopt_many

if TYPE_CHECKING:
    from ..inference import CTVideoPipeline

__all__ = ["Job", "Scorer"]

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
_NO_SESSION = ""
_CLOSING_S = 15.0  # for work to end that is between two occasions


class _CancelledError(Exception):
    """The visitor has gone."""


class Job:
    """Work in a thread, with where it stands; leaving its ``with`` block ends it.

    Attributes
    ----------
    stage, done, total
        Where it stands; ``total`` is 0 while nobody knows.
    result : object
        What the work returned.
    error : CTVideoError or None
        Why it failed, in words that may be shown.
    """

    def __init__(self, work: Callable[[Job], Any]) -> None:
        self.stage, self.done, self.total = "Starting", 0, 0
        self.result: Any = None
        self.error: CTVideoError | None = None
        self._work = work
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="ct-video-demo-job")

    def __enter__(self) -> Job:
        self.start()
        return self

    def start(self) -> None:
        """Begin, for work that nobody waits for."""
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """End it at the next occasion: the visitor has gone."""
        self._gone.set()

    def check(self) -> None:
        """Raises when it has been stopped."""
        if self._gone.is_set():
            raise _CancelledError

    def enter(self, stage: str, seconds: float | None = None) -> Callable[[int, int], None]:
        """Begin a stage; gives the function that it tells how far it is.

        That function raises when the visitor has gone, and CTVideoError after ``seconds``.
        """
        self.stage, self.done, self.total = stage, 0, 0
        end = None if seconds is None else time.monotonic() + seconds

        def tell(done: int, total: int) -> None:
            self.check()
            if end is not None and time.monotonic() > end:
                raise CTVideoError(
                    f"{stage} took longer than {seconds:.0f} seconds and was stopped. Run it on a "
                    "machine of your own: ct-video-hf predict."
                )
            self.done, self.total = done, total

        return tell

    def looks(self) -> Iterator[Job]:
        """Itself, now and then, until the work has ended."""
        while self._thread.is_alive():
            yield self
            self._thread.join(_LOOK_EVERY_S)

    def _run(self) -> None:
        try:
            self.result = self._work(self)
        except CTVideoError as error:
            self.error = error
        except _CancelledError:
            self.error = CTVideoError("The page was closed.")
        except Exception as error:
            # its text may quote the scan, so only its kind is told
            logger.error("a scan failed in an unexpected way: %s", type(error).__name__)
            self.error = CTVideoError(
                f"Something unexpected went wrong ({type(error).__name__}). Nothing was kept."
            )


class Scorer:
    """Reads and scores uploads with one pipeline, one at a time."""

    def __init__(self, predict: CTVideoPipeline, store: Store, limits: DemoLimits) -> None:
        self.predict = predict
        self.store = store
        self.limits = limits
        self._one_at_a_time = threading.Lock()
        self._lock = threading.Lock()
        self._running: dict[str, list[Job]] = {}
        self._closed = False
        self._warming = False

    def warm(self) -> Job:
        """Set the network up in the background, so that the first visitor need not wait for it.

        A scan that comes meanwhile is read, and scored after it.
        """

        def work(job: Job) -> None:
            with self._turn(job):
                self._warming = True
                try:
                    self.predict.warm()
                finally:
                    self._warming = False

        job = self._job(work, _NO_SESSION)
        job.start()
        return job

    def one(self, paths: Sequence[str], policy: str, session: str) -> Job:
        """A job that scores one uploaded scan and keeps it; its result is a :class:`Kept`."""

        def work(job: Job) -> Kept:
            return self._one(job, list(map(self.store.arrival, paths)), policy, session)

        return self._job(work, session)

    def example(self, path: Path, policy: str, session: str) -> Job:
        """As :meth:`one`, for a scan of this machine, which stays."""

        def work(job: Job) -> Kept:
            copy = Path(tempfile.mkdtemp(dir=self.store.root)) / path.name
            try:
                shutil.copyfile(path, copy)
                return self._one(job, [copy], policy, session)
            finally:
                shutil.rmtree(copy.parent, ignore_errors=True)

        return self._job(work, session)

    def many(
        self, paths: Sequence[str], policy: str, session: str, rows: list[dict[str, Any]]
    ) -> Job:
        """A job that scores scans one after the other; rows appear in ``rows`` as they are done."""

        def work(job: Job) -> Kept:
            kept = self.store.room(session)
            try:
                arrived = list(map(self.store.arrival, paths))
                scans = adopt_many(arrived, kept.folder, self.limits)
                for number, scan in enumerate(scans, start=1):
                    rows.append(self._row(job, number, scan, kept.folder, policy))
                table = write_predictions(rows, kept.folder / "table.csv")
                kept.files = {"table.csv": table.read_bytes()}
                self._keep(job, kept)
            except BaseException:
                self.store.discard(kept)
                raise
            return kept

        return self._job(work, session)

    def forget(self, session: str) -> None:
        """End what a page that was closed has under way, and delete what is kept of it."""
        with self._lock:
            running = list(self._running.get(session, ()))
        for job in running:
            job.stop()
        self.store.forget(session)

    def close(self) -> None:
        """End everything that is under way, so that nothing writes any more; take nothing new."""
        with self._lock:
            self._closed = True
        end = time.monotonic() + _CLOSING_S
        while time.monotonic() < end:
            with self._lock:
                running = [job for jobs in self._running.values() for job in jobs]
            if not running:
                break
            for job in running:
                job.stop()
            time.sleep(_LOOK_EVERY_S)

    def _job(self, work: Callable[[Job], Any], session: str) -> Job:
        def run(job: Job) -> Any:
            with self._lock:
                if self._closed:
                    raise _CancelledError
                self._running.setdefault(session, []).append(job)
            try:
                return work(job)
            finally:
                with self._lock:
                    self._running[session].remove(job)
                    if not self._running[session]:
                        del self._running[session]

        return Job(run)

    def _keep(self, job: Job, kept: Kept) -> None:
        self.store.put(kept)
        job.check()  # a page that was closed while this was put there

    def _one(self, job: Job, paths: Sequence[Path], policy: str, session: str) -> Kept:
        kept = self.store.room(session)
        try:
            path = adopt(paths, kept.folder, self.limits)
            kept.volume, kept.result = self._score(job, path, kept.folder, policy)
            self._trace(job, kept)
            kept.files = {
                "result.json": json.dumps(kept.result, indent=2).encode(),
                "report.html": render_report(kept.volume, kept.result).encode(),
            }
            self._keep(job, kept)
        except BaseException:
            self.store.discard(kept)
            raise
        return kept

    def _trace(self, job: Job, kept: Kept) -> None:
        """Find where the score comes from; where that cannot be told, say why."""
        with self._turn(job):
            tell = job.enter("Tracing where the score comes from", self.limits.score_seconds)
            try:
                kept.map = self.predict.saliency(kept.volume, progress=tell)
            except CTVideoError as error:
                kept.no_map = str(error)

    @contextmanager
    def _turn(self, job: Job, prefix: str = "") -> Iterator[None]:
        """The network is one visitor's at a time."""
        what = "the network to be ready" if self._warming else "another scan to finish"
        waits = job.enter(f"{prefix}Waiting for {what}")
        while not self._one_at_a_time.acquire(timeout=_LOOK_EVERY_S):
            waits(0, 0)
        try:
            yield
        finally:
            self._one_at_a_time.release()

    def _row(self, job: Job, number: int, scan: Path, folder: Path, policy: str) -> dict[str, Any]:
        name = f"scan {number}"
        try:
            _, result = self._score(job, scan, folder, policy, f"{name}: ")
        except CTVideoError as error:
            return prediction_row(name, None, error)
        finally:
            (folder / "hu.npy").unlink(missing_ok=True)
        return prediction_row(name, result)

    def _score(
        self, job: Job, path: Path, folder: Path, policy: str, prefix: str = ""
    ) -> tuple[Any, dict[str, Any]]:
        begin = time.perf_counter()
        try:
            volume = read_apart(
                path,
                folder,
                policy=policy,
                limits=self.limits,
                tell=job.enter(f"{prefix}Reading slices"),
            )
        finally:
            _delete(path)
        seconds = time.perf_counter() - begin
        with self._turn(job, prefix):
            tell = job.enter(f"{prefix}Scoring clips", self.limits.score_seconds)
            result = self.predict(volume, progress=tell)
        timings = result["timings_s"]
        timings["read"] = round(seconds, 4)
        timings["total"] = round(timings["total"] + seconds, 4)
        return volume, result


def _delete(path: Path) -> None:
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
