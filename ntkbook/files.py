"""Files that appear whole or not at all."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; once that is done, the file replaces the one at ``path`` by an atomic rename.

    The name is hidden, unique, and on the same disk. A kill leaves the old file or the new one, and at worst a hidden
    ``.NAME.*.tmp`` beside it; after an error the old file is there, and nothing else.

    Args:
        path: of the file, in a folder that is there.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
