"""Property tests have no deadlines: a busy machine is no defect."""

from __future__ import annotations

import contextlib

with contextlib.suppress(ImportError):  # tests of a GPU and of a virtual one run without it
    from hypothesis import settings

    settings.register_profile("tgsbench", deadline=None)
    settings.load_profile("tgsbench")
