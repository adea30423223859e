"""Train a U-Net from a few strokes: in napari, in Python, on the command line.

The public names are listed in ``__init__.pyi``. Importing this package loads neither PyTorch nor
Qt; each name is imported when it is first used.
"""

from __future__ import annotations

import lazy_loader

from napari_unetseg.core.versions import PROGRAM_VERSION as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
