"""Pushes to the Hub during and after training: loadable at every commit, and never in the way.

transformers pushes weights without the code that reads them and a card of its own making. Here each
push is one commit of a whole model folder, guarded, with this package's card; see
:func:`ct_video_hf.hub.push_model`. This is the one place where training calls upwards, and only in
a run that was asked to push.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transformers.trainer_utils import HubStrategy, SaveStrategy

from ..errors import CTVideoError
from ..evaluation import write_json
from ..evaluation.attention import ATTENTION_FILES
from .lora import merge_lora
from .push_record import trainer_record

__all__ = ["PushesToHub"]

logger = logging.getLogger(__name__)

#: What of a checkpoint makes a model: weights, configuration, processor and code; no optimizer.
_MODEL_FILE = re.compile(
    r"config\.json|video_preprocessor_config\.json"
    r"|(?!zero_to_)[a-z][a-z0-9_]*\.py"  # DeepSpeed adds scripts of its own to a checkpoint
    r"|model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"
)
#: What a user may have put beside a model before the last push.
_EVIDENCE = (
    "calibration.json",
    *ATTENTION_FILES,
    "metrics.json",
    "training_config.json",
    "figures",
)
_LOG = "training_log.csv"


class PushesToHub:
    """What ``CTTrainer`` does instead of transformers' own pushes.

    A repository is private unless ``hub_private_repo=False`` says otherwise. With
    ``hub_strategy="every_save"`` every checkpoint is pushed in the background, in a commit of its
    own; a checkpoint that is saved while the last one is still on its way is left out unless
    ``hub_always_push`` is set. A push that fails is logged with what to do, and training goes on.

    Attributes
    ----------
    describe_run : callable or None
        Gives the record that a push publishes as ``training_config.json``; None takes what the
        Trainer itself knows.
    """

    describe_run: Callable[[], dict[str, Any]] | None = None
    push_in_progress: Future | None = None
    _pusher: ThreadPoolExecutor | None = None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make or find the repository before the first step, so that a refusal costs nothing.

        Raises
        ------
        HubError
            Without a token or permission, for a repository that is public where a private one is
            wanted, or a Hub that cannot be reached.
        """
        if not self.is_world_process_zero():
            return
        from ..hub.model_repo import open_model_repo

        self.hub_model_id = open_model_repo(
            self.args.hub_model_id or Path(self.args.output_dir).absolute().name,
            private=self._private(private),
            revision=self.args.hub_revision or "main",
            token=token or self.args.hub_token,
        )

    def _private(self, said: bool | None = None) -> bool:
        said = self.args.hub_private_repo if said is None else said
        return said is not False

    def create_model_card(self, *args, **kwargs) -> None:
        """This package's card for the model in the output folder; arguments are not needed."""
        if not self.is_world_process_zero():
            return
        from ..hub.card import write_model_card

        write_model_card(self.args.output_dir, model_id=self.hub_model_id)

    # ---- while training runs ---------------------------------------------------------------------

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Start the push of a checkpoint; what fails here is logged and stops nothing."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        step = self.state.global_step
        busy = self.push_in_progress is not None and not self.push_in_progress.done()
        if busy and not self.args.hub_always_push:
            logger.info("step %d is not pushed: the push before it is still going on", step)
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        stage = Path(tempfile.mkdtemp(prefix=".push-", dir=self.args.output_dir))
        try:
            self._stage_checkpoint(Path(checkpoint_folder), stage)
        except Exception as error:
            shutil.rmtree(stage, ignore_errors=True)
            logger.warning("step %d is not pushed, training goes on: %s", step, error)
            return
        self.push_in_progress = self._pushes().submit(self._push_stage, stage, self._moment())

    def _pushes(self) -> ThreadPoolExecutor:
        """One thread, so that commits keep their order."""
        if self._pusher is None:
            self._pusher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        return self._pusher

    def _moment(self) -> str:
        if self.args.save_strategy == SaveStrategy.STEPS or self.state.epoch is None:
            return f"Training in progress, step {self.state.global_step}"
        return f"Training in progress, epoch {self.state.epoch:.4g}"

    def _stage_checkpoint(self, checkpoint: Path, stage: Path) -> None:
        """A model folder of the checkpoint, which may be deleted while it is being pushed."""
        model = self.accelerator.unwrap_model(self.model)
        moment = {"step": self.state.global_step, "epoch": self.state.epoch}
        record = self._record() | {"in_progress": moment}
        record.pop("training_seconds", None)  # it goes on
        if hasattr(model, "peft_config"):
            model = merge_lora(copy.deepcopy(model))
            model.save_pretrained(stage)
            self.processing_class.save_pretrained(stage)
            record["parameters"] = sum(value.numel() for value in model.parameters())
        else:
            for file in checkpoint.iterdir():
                if _MODEL_FILE.fullmatch(file.name):
                    _link(file, stage / file.name)
        write_json(record, stage / "training_config.json")
        log = Path(self.args.output_dir) / _LOG
        if log.is_file():
            shutil.copyfile(log, stage / _LOG)

    def _record(self) -> dict[str, Any]:
        return trainer_record(self) if self.describe_run is None else self.describe_run()

    def _push_stage(self, stage: Path, message: str) -> None:
        try:
            told = self._push(stage, message)
            logger.info("%s: commit %s of %s", message, told.commit, told.repo)
        except Exception as error:
            logger.warning(
                "%s: not pushed, training goes on. %s Later pushes try again; by hand: "
                "ct-video-hf push MODEL_FOLDER %s",
                message,
                error,
                self.hub_model_id,
            )
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def _push(self, folder: Path, message: str, **more: Any) -> Any:
        from ..hub.model_repo import push_model

        given = {
            "private": self._private(),
            "revision": self.args.hub_revision or "main",
            "token": self.args.hub_token,
        }
        return push_model(folder, self.hub_model_id, message=message, **(given | more))

    def _finish_current_push(self) -> None:
        """Wait for pushes that are going on; they never raise."""
        if self.push_in_progress is not None:
            self.push_in_progress.result()

    # ---- afterwards ------------------------------------------------------------------------------

    def push_finished(self, folder: str | os.PathLike) -> dict[str, Any] | None:
        """Push a finished model folder, if the run was asked to; a failure is told, not raised.

        Returns
        -------
        dict or None
            What was pushed, or ``repo``, ``private`` and ``error``; None where nothing was asked
            for, and on other processes than the first.
        """
        if not self.args.push_to_hub or not self.is_world_process_zero():
            return None
        self._finish_current_push()
        try:
            return self._push(Path(folder), "Finished model").to_dict()
        except Exception as error:  # the model is there, whatever befell its push
            return {"repo": self.hub_model_id, "private": self._private(), "error": f"{error}"}

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        *,
        license: str | None = None,
        dataset_id: str | None = None,
        **unknown: Any,
    ) -> Any:
        """Push the model as it is now, with processor, code and card, in one commit.

        ``calibration.json``, ``metrics.json``, ``training_config.json`` and ``figures`` of the
        output folder go along where they are.

        Parameters
        ----------
        commit_message, blocking, token, revision, private
            As for ``transformers.Trainer``.
        license, dataset_id : str, optional
            As for :func:`ct_video_hf.hub.push_model`.

        Returns
        -------
        ct_video_hf.hub.ModelPush
            Or its ``Future``, when not ``blocking``; None on other processes than the first.

        Raises
        ------
        CTVideoError
            For arguments of transformers' card, and what the guard or the Hub refuse.
        """
        if unknown:
            raise CTVideoError(
                f"push_to_hub does not take {', '.join(sorted(unknown))}: the card is made from "
                "the run's own records. It takes license and dataset_id."
            )
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        output = Path(self.args.output_dir)
        stage = output / ".push-now"
        self.save_model(str(stage), _internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        self._stage_evidence(output, stage)
        said = {"license": license, "dataset_id": dataset_id, "private": self._private(private)}
        said |= {"token": token} if token else {}
        said |= {"revision": revision} if revision else {}
        message = commit_message or "Model, processor, code and card"
        pushed = self._pushes().submit(self._push_and_clear, stage, message, said)
        return pushed.result() if blocking else pushed

    def _stage_evidence(self, output: Path, stage: Path) -> None:
        write_json(self._record(), stage / "training_config.json")
        for name in (*_EVIDENCE, _LOG):
            if (output / name).is_dir():
                shutil.copytree(output / name, stage / name, dirs_exist_ok=True)
            elif (output / name).is_file():
                shutil.copyfile(output / name, stage / name)

    def _push_and_clear(self, stage: Path, message: str, said: dict[str, Any]) -> Any:
        try:
            return self._push(stage, message, **said)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _link(file: Path, there: Path) -> None:
    """The same file under a second name, or a copy where the disk cannot do that."""
    try:
        os.link(file, there)
    except OSError:
        shutil.copyfile(file, there)
