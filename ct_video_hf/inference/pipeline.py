"""Whole-study prediction: a scan on disk or in memory to a study probability with evidence."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..dicom import CTVolume, read_ct
from ..errors import CTVideoError
from ..evaluation import describe_aggregation
from ..models.hu_clips import AIR_HU, as_hu
from ..progress import Progress
from .backends import choose_backend
from .batch import Batch
from .choices import (
    TTA,
    check_choices,
    check_tta,
    choose_device,
    choose_dtype,
    choose_label,
    label_names,
    place_model,
)
from .exported import ExportedNetwork
from .loading import LoadedModel, attention_for, load_model
from .localization import slice_relevance
from .many import Outcome, outcomes
from .probabilities import study_probabilities, why_not_calibrated
from .results import along_the_body, clip_rows, key_slices, log_odds, study_log_odds
from .scorer import ClipScorer

if TYPE_CHECKING:
    from .saliency import SaliencyMap

__all__ = ["CTVideoPipeline", "Outcome", "pipeline"]


def pipeline(
    model_id_or_path: str | os.PathLike,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    policy: str = "strict",
    batch_size: int = 4,
    stride: int | None = None,
    label: str | int | None = None,
    backend: str = "auto",
    tta: str | None = None,
) -> CTVideoPipeline:
    """Load a model for whole-study prediction.

    Parameters
    ----------
    model_id_or_path : str or path
        A model folder, an exported one too, or a Hub id (``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and
        the cache are honoured).
    revision : str, optional
        Branch, tag or commit on the Hub; model and processor come from one commit.
    device : str or torch.device, optional
        Default: the first CUDA device, or the CPU; exported models run on the CPU.
    dtype : {"float32", "bfloat16", "float16"} or torch.dtype, optional
        Arithmetic of the network; float32 unless asked otherwise, 16-bit kinds through autocast.
    policy : {"strict", "warn", "repair"}
        What to do with scans of doubtful geometry, see :func:`ct_video_hf.read_ct`.
    batch_size : int
        Clips in the network at a time.
    stride : int, optional
        Slices between the starts of neighbouring clips; default: the processor's.
    label : str or int, optional
        The label that ``study_probability``, clip scores and key slices are about. Default: the
        first label, or class 1 of two classes.
    backend : {"auto", "eager", "fast", "onnxruntime", "openvino"}
        What computes the network, see :func:`.backends.choose_backend`; a result's ``backend``
        and ``precision`` say what did.
    tta : {"flips"}, optional
        Test-time augmentation: score each study as it is and mirrored left to right, and take the
        mean of the logits; twice the work. A calibration does not hold for it.

    Returns
    -------
    CTVideoPipeline

    Raises
    ------
    CTVideoError
        A model that cannot be loaded, or an option that does not fit it.

    Examples
    --------
    >>> predict = pipeline("user/model")               # doctest: +SKIP
    >>> predict("scan/")["study_probability"]          # doctest: +SKIP
    0.93
    """
    return CTVideoPipeline(
        load_model(os.fspath(model_id_or_path), revision=revision),
        device=device,
        dtype=dtype,
        policy=policy,
        batch_size=batch_size,
        stride=stride,
        label=label,
        backend=backend,
        tta=tta,
    )


class CTVideoPipeline:
    """Callable on a DICOM folder, a zip, a NIfTI file, a :class:`CTVolume`, or a list of them.

    Memory is bounded by the scan at the processor's in-plane size (``read_ct`` fits each plane as
    it is decoded), once more for the scan that is read ahead in a list, and one batch of clips.
    See :func:`pipeline` for the parameters.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        policy: str = "strict",
        batch_size: int = 4,
        stride: int | None = None,
        label: str | int | None = None,
        backend: str = "auto",
        tta: str | None = None,
    ) -> None:
        check_choices(policy, batch_size, stride, loaded.processor.num_frames)
        check_tta(tta)
        self.loaded = loaded
        self.processor = loaded.processor
        self.policy = policy
        self.stride = stride
        self.tta = tta
        if device is None and isinstance(loaded.model, ExportedNetwork):
            device = "cpu"
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.model = place_model(loaded.model, self.device, self.dtype)
        self.backend = choose_backend(backend, self.model, self.device, self.dtype)
        self.labels = label_names(loaded.model.config)
        self.label = choose_label(label, self.labels, loaded.model.config)
        self.scorer = ClipScorer(
            model=self.model,
            processor=self.processor,
            backend=self.backend,
            device=self.device,
            dtype=self.dtype,
            label=self.label,
            batch_size=batch_size,
            stride=stride,
            name=loaded.name,
            flips=tta == "flips",
            attention=attention_for(loaded, loaded.aggregation[0]),
        )
        self._not_calibrated = why_not_calibrated(loaded, self.labels, stride, tta)

    def __call__(
        self,
        scans: Any,
        *,
        include_ids: bool = False,
        progress: Progress = False,
        on_error: str = "row",
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Predict one scan, a list of scans, or a folder of studies.

        Parameters
        ----------
        scans : path, CTVolume, or list of them
            A list gives a list, in order, and so does a folder that holds several studies, see
            :func:`.studies.find_studies`. The next scan is read while one is computed.
        include_ids : bool
            Give the SOP Instance UIDs of clips and key slices, which are identifiers.
        progress : bool or callable
            Show a progress bar on stderr. A callable is told (done, total) instead, of slices that
            are read and then of clips, and what it raises ends the work; for one scan only.
        on_error : {"row", "raise"}
            What a scan of several that fails becomes: a dictionary with ``study``, ``error`` and
            ``error_type`` while the others go on, or the end of the work. The error of a single
            scan is always raised.

        Returns
        -------
        dict or list of dict
            JSON-able: ``study_probability`` (calibrated where ``calibrated`` says so; how, or why
            not, is in ``calibration``), ``study_score`` (never calibrated), ``study_logit``,
            ``label``, ``study_probabilities`` (by label), ``labels`` (of several labels: each with
            ``probability``, ``score``, ``calibrated``, ``calibration`` and ``operating_points``),
            ``operating_points`` (of a calibrated label), ``aggregation``,
            ``test_time_augmentation``, ``clips`` (see :func:`.results.clip_rows`), ``key_slices``
            and ``key_slice_rule`` (see :func:`.results.key_slices`; by scores of clips, also where
            learned attention makes the study's score), ``report``, ``model``,
            ``precision``, ``backend``,
            ``timings_s``, ``slice_relevance`` (see :func:`.results.along_the_body`; None where the
            network does not tell). Of several scans each also has ``study``: the path below the
            folder given, or its own name; None for a CTVolume.

        Raises
        ------
        CTReadError
            A scan that cannot be read under the policy.
        CTVideoError
            Too few slices, or values that are not Hounsfield units.
        """
        batch = Batch.of(scans)
        if batch is not None:
            options = {"include_ids": include_ids, "progress": bool(progress)}
            return batch.results(self.predict_many, on_error, **options)
        volume, seconds = self._read(scans, full_size=False, progress=progress)
        return self._predict(volume, seconds, include_ids=include_ids, progress=progress)

    def predict_many(
        self,
        scans: Iterable[Any],
        *,
        include_ids: bool = False,
        progress: bool = False,
        keep_volumes: bool = False,
    ) -> Iterator[Outcome]:
        """Predict scans one after the other; a scan that fails, however, is an outcome.

        The next scan is read in a second thread while the current one is computed.

        Parameters
        ----------
        scans : iterable of path or CTVolume
        include_ids, progress : bool
            As in :meth:`__call__`.
        keep_volumes : bool
            Read scans at full resolution and hand them over, for pictures. Scores are the same.
            Memory then holds two volumes (2 bytes a voxel each), this one and the next, if who
            takes an outcome lets go of it before the next is asked for.

        Yields
        ------
        Outcome
            In the order of ``scans``.
        """
        scans = list(scans)
        alone = len(scans) == 1  # then the bar counts clips
        bars = progress and alone
        read = partial(self._read, full_size=keep_volumes, progress=bars)
        predict = partial(self._predict, include_ids=include_ids, progress=bars)
        with tqdm(total=len(scans), unit="study", disable=not progress or alone) as bar:
            for outcome in outcomes(scans, read, predict, keep_volumes=keep_volumes):
                bar.update()
                yield outcome
                del outcome  # and its volume, before the next one is computed

    def warm(self) -> None:
        """Score one clip of noise, which records and checks the fast graph, see :mod:`.backends`.

        The first study otherwise waits for that.
        """
        side = self.processor.crop_size or self.processor.size
        shape = (self.processor.num_frames, side, side)
        planes = np.random.default_rng(0).integers(-1000, 400, shape, np.int16)
        timings = dict.fromkeys(("prepare", "setup", "forward"), 0.0)
        self.scorer.study(planes, np.zeros(1, np.int64), timings, False)

    def saliency(self, scan: Any, *, progress: Progress = False) -> SaliencyMap:
        """Where in a scan (path or CTVolume) its score comes from, see :mod:`.saliency`."""
        from .saliency import study_saliency

        volume, _ = self._read(scan, full_size=False, progress=progress)
        fitted = not isinstance(scan, CTVolume)
        return study_saliency(self, volume, fitted=fitted, progress=progress)

    def features(self, scan: Any) -> dict[str, np.ndarray]:
        """What the classifier sees of each clip of a scan (path or CTVolume).

        Returns
        -------
        dict of numpy.ndarray
            ``features`` float32 (clip, feature); ``start`` and ``stop`` int64 (clip,), slices of
            each clip, half-open, 0 nearest to the feet.
        """
        from .features import scan_features

        return scan_features(self, scan)

    def _read(self, scan: Any, full_size: bool, progress: Progress) -> tuple[CTVolume, float]:
        start = time.perf_counter()
        if isinstance(scan, CTVolume):
            return scan, 0.0
        if not isinstance(scan, str | os.PathLike):
            raise CTVideoError(
                f"A scan is a path (DICOM folder, zip, NIfTI) or a CTVolume, not a "
                f"{type(scan).__name__}."
            )
        in_plane = None if full_size else self.processor.size
        volume = read_ct(Path(scan), policy=self.policy, in_plane=in_plane, progress=progress)
        return volume, time.perf_counter() - start

    def _predict(
        self, volume: CTVolume, read_seconds: float, *, include_ids: bool, progress: Progress
    ) -> dict[str, Any]:
        begin = time.perf_counter()
        starts, planes = self._prepare(volume)
        timings = {"read": read_seconds, "prepare": time.perf_counter() - begin}
        timings |= {"setup": 0.0, "forward": 0.0}
        scores = self.scorer.study(planes, starts, timings, progress)
        odds = log_odds(scores.logits, self.model.config.problem_type)
        study = study_log_odds(odds, *self.loaded.aggregation, scores.attention)
        clips = clip_rows(
            volume,
            starts,
            scores.lengths,
            odds,
            self.label,
            self.labels,
            include_ids=include_ids,
            attention=scores.attention,
        )
        relevance = None
        if scores.activation is not None:
            relevance = slice_relevance(scores.activation, scores.lengths)
        keys, rule = key_slices(
            volume, clips, relevance, self.processor.num_frames, include_ids=include_ids
        )
        timings["total"] = read_seconds + time.perf_counter() - begin
        return {
            **study_probabilities(
                study, self.loaded, self.labels, self.label, self._not_calibrated
            ),
            "aggregation": describe_aggregation(*self.loaded.aggregation),
            "test_time_augmentation": TTA[self.tta],
            "clips": clips,
            "key_slices": keys,
            "key_slice_rule": rule,
            "slice_relevance": None
            if relevance is None
            else along_the_body(len(volume), clips, relevance),
            "report": volume.report.to_dict(),
            "model": self.loaded.describe(),
            "precision": self.backend.precision,
            "backend": self.backend.name,
            "timings_s": {name: round(value, 4) for name, value in timings.items()},
        }

    def _prepare(self, volume: CTVolume) -> tuple[np.ndarray, np.ndarray]:
        """Clip starts, and the planes as the network will see them, int16 (slice, row, column)."""
        try:
            starts = self.processor.clip_starts(len(volume), self.stride)
            hu = as_hu(volume.hu)
        except ValueError as error:
            raise CTVideoError(str(error)) from error
        if len(starts) == 0:
            raise CTVideoError(
                f"The processor's tail rule 'drop' leaves no clip of a study of {len(volume)} "
                f"slices with clips of {self.processor.num_frames}."
            )
        size = self.processor.size
        fitted = hu.shape[1:] == (size, size) and hu.min() >= AIR_HU
        return starts, self.processor.center_crop(hu if fitted else self.processor.fit(hu))

    def logits(self, pixel_values: torch.Tensor) -> np.ndarray:
        """Logits (clip, label) of processed clips, by this pipeline's backend and arithmetic."""
        found = self.clip_values(pixel_values)
        return found if self.scorer.attention is None else found[..., 0]

    def clip_values(self, pixel_values: torch.Tensor) -> np.ndarray:
        """Logits (clip, label); of a model that learned attention (clip, label, 3), with what its
        head gives each clip (:mod:`ct_video_hf.evaluation.attention`)."""
        return self.scorer.clips(pixel_values)[0]
