"""`python -m tgsbench.external RUN_DIR`: run another system's ranks and write their events."""

from __future__ import annotations

import sys

from tgsbench.external.bridge import main

if __name__ == "__main__":
    sys.exit(main())
