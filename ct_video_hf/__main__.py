"""``python -m ct_video_hf`` is the ``ct-video-hf`` command."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
