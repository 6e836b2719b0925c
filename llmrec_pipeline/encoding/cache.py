"""What takes long to make is made once per machine and user."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from llmrec_pipeline.errors import ModelError


def cached(kind: str, name: str, make: Callable[[Path], None]) -> Path:
    """The folder `kind`/`name` in the user's cache folder; where it is absent `make` fills it, and it appears whole or not at all.

    Args:
        kind: what the folder holds.
        name: a hash of what it is made from.
        make: writes the files into the empty folder that it is given.

    Raises:
        ModelError: the cache folder cannot be written.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmrec-pipeline" / kind / name
        if folder.exists():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody's home is known
        raise ModelError(
            f"no cache folder can be written on this machine ({error}); name one that its user may write by the environment's XDG_CACHE_HOME"
        ) from error
    try:
        make(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            # another worker was faster
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder
