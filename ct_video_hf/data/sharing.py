"""Whether a prepared set may leave the house: asked before anything is pushed."""

from __future__ import annotations

from typing import Any

from .errors import CTDataError

__all__ = ["reasons_against_sharing", "refuse_public"]


def reasons_against_sharing(manifest: dict[str, Any]) -> list[str]:
    """Why a set must not be public; empty when nothing is known against it.

    Parameters
    ----------
    manifest : dict
        Of :func:`.manifest.read_manifest`.
    """
    provenance = manifest["provenance"]
    reasons = []
    if not provenance.get("redistributable", False):
        reasons.append(
            f"images of {provenance['name']} must not be redistributed (licence of the source: "
            f"{provenance['licence']})"
        )
    if manifest["parameters"].get("slice_ids"):
        reasons.append("it holds SOP Instance UIDs, which identify (prepared with slice_ids)")
    return reasons


def refuse_public(manifest: dict[str, Any], *, private: bool) -> None:
    """Refuse to push a set where everybody could fetch it.

    Parameters
    ----------
    manifest : dict
        Of :func:`.manifest.read_manifest`.
    private : bool
        Whether the repo *is* private, as the Hub answers for it. A repo that exists and is public
        stays public when ``create_repo(private=True, exist_ok=True)`` is called on it.

    Raises
    ------
    CTDataError
        When the repo is public and something is known against sharing the set.
    """
    reasons = reasons_against_sharing(manifest)
    if reasons and not private:
        raise CTDataError(
            f"this set is not pushed to a public repo: {'; '.join(reasons)}. Push to a private "
            "repo that only people who accepted the source's terms can read, or share splits.csv "
            "and the command, from which they can make the set themselves."
        )
