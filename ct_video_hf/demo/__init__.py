"""The demo: a page on which a scan is dropped, scored and looked at. Needs the extra ``demo``.

What arrives is read in a process of its own, with limits on memory and time, and deleted as soon as
it has been read; the volume stays on disk, in a folder that only this process can read, until the
page is closed or a while has passed. Nothing about a scan is logged.

Not for clinical use.
"""

from .limits import DemoLimits
from .serve import Running, read_examples, serve, serve_space

__all__ = ["DemoLimits", "Running", "read_examples", "serve", "serve_space"]
