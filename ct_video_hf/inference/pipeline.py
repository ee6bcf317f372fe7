"""Whole-study prediction: a scan on disk or in memory to a study probability with evidence."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..dicom import CTVolume, read_ct
from ..errors import CTVideoError
from ..evaluation import describe_aggregation
from ..models.hu_clips import AIR_HU, as_hu
from ..progress import Progress, counter
from .backends import choose_backend
from .loading import LoadedModel, load_model
from .localization import clip_forward, slice_relevance
from .results import along_the_body, clip_rows, key_slices, log_odds, sigmoid, study_log_odds

__all__ = ["CTVideoPipeline", "Outcome", "pipeline"]

logger = logging.getLogger(__name__)

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Outcome:
    """What became of one scan of many.

    Attributes
    ----------
    scan : object
        The scan as it was given.
    result : dict or None
        As from :meth:`CTVideoPipeline.__call__`; None when it failed.
    error : Exception or None
        Why it failed.
    volume : CTVolume or None
        The scan that was scored, where it was asked for.
    """

    scan: Any
    result: dict[str, Any] | None = None
    error: Exception | None = None
    volume: CTVolume | None = None


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
) -> CTVideoPipeline:
    """Load a model for whole-study prediction.

    Parameters
    ----------
    model_id_or_path : str or path
        A model folder or a Hub id (``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and the cache are honoured).
    revision : str, optional
        Branch, tag or commit on the Hub; model and processor come from one commit.
    device : str or torch.device, optional
        Default: the first CUDA device, or the CPU.
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
    backend : {"auto", "eager", "fast"}
        What computes the network, see :func:`.backends.choose_backend`; a result's ``backend``
        and ``precision`` say what did.

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
    ) -> None:
        if policy not in ("strict", "warn", "repair"):
            raise CTVideoError(f"policy is {policy!r}; allowed: strict, warn, repair.")
        for name, value in (("batch_size", batch_size), ("stride", stride)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise CTVideoError(f"{name} is {value!r}; a whole number of at least 1 is needed.")
        if stride is not None and stride > loaded.processor.num_frames:
            raise CTVideoError(
                f"stride {stride} exceeds the clip length {loaded.processor.num_frames}: slices "
                "between the clips would never be read."
            )
        self.loaded = loaded
        self.processor = loaded.processor
        self.policy = policy
        self.batch_size = batch_size
        self.stride = stride
        self.device = _device(device)
        self.dtype = _dtype(dtype, self.device)
        self.model = _placed(loaded.model, self.device, self.dtype)
        self.backend = choose_backend(backend, self.model, self.device, self.dtype)
        self.labels = _label_names(loaded.model.config)
        self.label = _label_index(label, self.labels, loaded.model.config)
        self._not_calibrated = self._why_not_calibrated()

    def __call__(
        self, scans: Any, *, include_ids: bool = False, progress: Progress = False
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Predict one scan or a list of scans.

        Parameters
        ----------
        scans : path, CTVolume, or list of them
            A list gives a list, in order. The next scan is read while one is computed.
        include_ids : bool
            Give the SOP Instance UIDs of the key slices, which are identifiers.
        progress : bool or callable
            Show a progress bar on stderr. A callable is told (done, total) instead, of slices that
            are read and then of clips, and what it raises ends the work; for one scan only.

        Returns
        -------
        dict or list of dict
            JSON-able: ``study_probability`` (calibrated where ``calibrated`` says so; how, or why
            not, is in ``calibration``), ``study_score`` (never calibrated), ``study_logit``,
            ``label``, ``study_probabilities`` (by label), ``operating_points`` (of a calibrated
            model), ``aggregation``, ``clips``, ``key_slices``, ``key_slice_rule``, ``report``,
            ``model``, ``precision``, ``backend``, ``timings_s``, ``slice_relevance`` (see
            :func:`.results.along_the_body`; None where the network does not tell).

        Raises
        ------
        CTReadError
            A scan that cannot be read under the policy.
        CTVideoError
            Too few slices, or values that are not Hounsfield units. In a list the first error
            ends the work; :meth:`predict_many` goes on.
        """
        if isinstance(scans, list | tuple):
            results = []
            for outcome in self.predict_many(
                scans, include_ids=include_ids, progress=bool(progress)
            ):
                if outcome.error is not None:
                    raise outcome.error
                results.append(outcome.result)
            return results
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
        """Predict scans one after the other; a scan that fails is an outcome with its error.

        The next scan is read in a second thread while the current one is computed.

        Parameters
        ----------
        scans : iterable of path or CTVolume
        include_ids, progress : bool
            As in :meth:`__call__`.
        keep_volumes : bool
            Read scans at full resolution and hand them over, for pictures. Scores are the same.

        Yields
        ------
        Outcome
            In the order of ``scans``.
        """
        scans = list(scans)
        alone = len(scans) == 1  # then the bar counts clips
        bar = tqdm(total=len(scans), unit="study", disable=not progress or alone)
        with bar, ThreadPoolExecutor(1, thread_name_prefix="ct-video-read") as reader:
            ahead: Future | None = None
            for position, scan in enumerate(scans):
                current = ahead or reader.submit(self._read, scan, keep_volumes, progress and alone)
                following = scans[position + 1 : position + 2]
                try:
                    volume, seconds = current.result()
                except Exception as error:  # whatever is wrong with a scan, the others go on
                    logger.debug("a scan could not be read", exc_info=True)
                    ahead = _submit(reader, self._read, following, keep_volumes)
                    bar.update()
                    yield Outcome(scan, error=error)
                    continue
                ahead = _submit(reader, self._read, following, keep_volumes)
                try:
                    result = self._predict(
                        volume, seconds, include_ids=include_ids, progress=progress and alone
                    )
                except CTVideoError as error:
                    outcome = Outcome(scan, error=error)
                else:
                    outcome = Outcome(scan, result, volume=volume if keep_volumes else None)
                bar.update()
                yield outcome

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
        lengths, logits, activation = self._forward(planes, starts, timings, progress)
        config = self.model.config
        odds = log_odds(logits, config.problem_type)
        study = study_log_odds(odds, *self.loaded.aggregation)
        clips = clip_rows(volume, starts, lengths, odds, self.label, self.labels)
        relevance = None if activation is None else slice_relevance(activation, lengths)
        keys, rule = key_slices(
            volume, clips, relevance, self.processor.num_frames, include_ids=include_ids
        )
        timings["total"] = read_seconds + time.perf_counter() - begin
        return {
            **self._probabilities(study),
            "aggregation": describe_aggregation(*self.loaded.aggregation),
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

    def _probabilities(self, study: np.ndarray) -> dict[str, Any]:
        """Study probabilities from log-odds (label,), calibrated where the model's way allows."""
        logit = float(study[self.label])
        scores = [sigmoid(float(value)) for value in study]
        probabilities, words = scores, self._not_calibrated
        if words is None:
            probabilities = self.loaded.calibration.apply(study).tolist()
            words = self.loaded.calibration.words()
        found = {
            "study_probability": probabilities[self.label],
            "study_score": scores[self.label],
            "study_logit": logit,
            "label": self.labels[self.label],
            "study_probabilities": dict(zip(self.labels, probabilities, strict=True)),
            "calibrated": self._not_calibrated is None,
            "calibration": words,
        }
        if found["calibrated"]:
            found["operating_points"] = [
                {
                    "rule": point.rule,
                    "words": point.words,
                    "threshold": point.threshold,
                    "positive": scores[self.label] >= point.threshold,
                }
                for point in self.loaded.calibration.operating_points
            ]
        return found

    def _why_not_calibrated(self) -> str | None:
        """Why the model's calibration does not hold for what this pipeline does; None: it does."""
        calibration, stride = self.loaded.calibration, self.processor.stride
        if calibration is None:
            return "the model has none"
        if len(self.labels) != 1:
            return "it is for one label, and the model has several"
        rule = (calibration.aggregation, calibration.top_k)
        if rule != self.loaded.aggregation:
            return "it was fitted for another rule of study scores"
        usual = stride or self.processor.num_frames
        if self.stride not in (None, usual):
            return f"it was fitted for clips {usual} slices apart"
        return None

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

    def _forward(
        self, planes: np.ndarray, starts: np.ndarray, timings: dict[str, float], progress: Progress
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Lengths (clip,), logits (clip, label) and activations (clip, frame) of all clips."""
        lengths, logits, activations = [], [], []
        with counter(len(starts), progress, unit="clip") as advance:
            for first in range(0, len(starts), self.batch_size):
                begin = time.perf_counter()
                clips, valid = self.processor.cut(planes, starts[first : first + self.batch_size])
                pixel_values = self.processor.to_pixel_values(clips)
                ready = time.perf_counter()
                scores, activation = self._network(pixel_values)
                setup, self.backend.setup_seconds = self.backend.setup_seconds, 0.0
                timings["prepare"] += ready - begin
                timings["setup"] += setup
                timings["forward"] += time.perf_counter() - ready - setup
                lengths.append(valid)
                logits.append(scores)
                activations.append(activation)
                advance(len(valid))
        every = np.concatenate(logits)
        if not np.isfinite(every).all():
            raise CTVideoError(
                f"The network {self.loaded.name} gave a score that is no number, in "
                f"{self.backend.precision}. Its weights are damaged, or need float32."
            )
        along = None if activations[0] is None else np.concatenate(activations)
        return np.concatenate(lengths), every, along

    def logits(self, pixel_values: torch.Tensor) -> np.ndarray:
        """Logits (clip, label) of processed clips, by this pipeline's backend and arithmetic."""
        return self._network(pixel_values)[0]

    def _network(self, pixel_values: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        pixel_values = pixel_values.to(self.device)
        narrow = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=narrow), _exact(self.device):
            logits, activation = clip_forward(self.model, pixel_values, self.label, self.backend)
        along = None if activation is None else activation.cpu().numpy()
        return logits.double().cpu().numpy(), along


def _exact(device: torch.device) -> AbstractContextManager:
    """Convolutions of float32 in float32: cuDNN would round their input to TF32 by default."""
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )


def _submit(
    reader: ThreadPoolExecutor, read: Any, following: list[Any], full_size: bool
) -> Future | None:
    return reader.submit(read, following[0], full_size, False) if following else None


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise CTVideoError(f"There is no device {device!r}; use cpu, cuda or cuda:N.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise CTVideoError("Device cuda was asked for; PyTorch sees no CUDA device here.")
    return chosen


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    chosen = _DTYPES.get(str(dtype or "float32").removeprefix("torch."))
    if chosen is None:
        raise CTVideoError(f"dtype is {dtype!r}; allowed: {', '.join(_DTYPES)}.")
    if chosen == torch.float16 and device.type == "cpu":
        raise CTVideoError("float16 needs a GPU; on a CPU use float32 or bfloat16.")
    return chosen


def _placed(model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    model = model.to(device).eval()
    if dtype != torch.float32:  # 16-bit convolutions are fast in this layout; float32 gains nothing
        for parameter in model.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return model


def _label_names(config: Any) -> list[str]:
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    if names == ["LABEL_0"]:  # transformers' placeholder for an unnamed binary task
        return ["positive"]
    return names


def _label_index(label: str | int | None, names: list[str], config: Any) -> int:
    if label is None:
        if config.problem_type != "single_label_classification" or len(names) == 1:
            return 0
        if len(names) == 2:
            return 1
        raise CTVideoError(
            f"The model chooses between {len(names)} classes ({', '.join(names)}): say with "
            "label= which one the study score is about."
        )
    if label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise CTVideoError(f"The model has no label {label!r}; it has: {', '.join(names)}.")
