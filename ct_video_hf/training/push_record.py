"""What a pushed model says of its training where only the Trainer can tell, not a whole run."""

from __future__ import annotations

from typing import Any

from .counts import count_split
from .record import course

__all__ = ["trainer_record"]


def trainer_record(trainer: Any) -> dict[str, Any]:
    """The content of ``training_config.json`` for a Trainer that a user made.

    Which network, which starting weights and which set it was is not known here, and the card says
    so.

    Parameters
    ----------
    trainer : CTTrainer
    """
    args = trainer.args
    roles = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
    return {
        "arguments": {
            "epochs": args.num_train_epochs,
            "lr": args.learning_rate,
            "scheduler": getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type),
            "optimizer": args.optimizer,
            "weight_decay": args.weight_decay,
            "sampling": args.sampling,
            "early_stopping": args.early_stopping,
            "metric": args.metric_for_best_model,
            "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        },
        "data": {
            "counts": {role: _counts(part) for role, part in roles.items() if part is not None}
        },
        **course(trainer),
    }


def _counts(part: Any) -> dict[str, Any]:
    counts = count_split(part)
    missed = {key: count for key, count in counts["left_out"].items() if key != "study_ids"}
    return counts | {"left_out": missed}
