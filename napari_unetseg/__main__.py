"""``python -m napari_unetseg`` is the command line."""

from __future__ import annotations

import sys

from napari_unetseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
