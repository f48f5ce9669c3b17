"""Archives of records, such as come back from another machine."""

import contextlib
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ntkbook.records import RecordError


@contextlib.contextmanager
def record_folder(archive: Path) -> Iterator[Path]:
    """The folder of the records in an archive, unpacked for as long as it is needed.

    Args:
        archive: a folder, or a file that ``shutil.unpack_archive`` knows by its name (.tar, .tar.gz, .tar.xz,
            .zip, ...). The store may lie at any depth in it.

    Yields:
        The folder that :class:`ntkbook.results.Store` takes.

    Raises:
        FileNotFoundError: there is no such archive.
        RecordError: it is not an archive, reaches outside its own folder, or holds no store or several.
    """
    if not archive.exists():
        raise FileNotFoundError(f"there is no archive {archive}")
    if archive.is_dir():
        yield _only_store(archive, archive)
        return
    with tempfile.TemporaryDirectory() as place:
        try:
            # The filter refuses absolute names, links that lead out, and devices; of a zip such names are passed over.
            shutil.unpack_archive(archive, place, **({} if archive.suffix == ".zip" else {"filter": "data"}))
        except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, ValueError, EOFError) as error:
            raise RecordError(f"The archive {str(archive)!r} cannot be unpacked: {error}") from error
        yield _only_store(Path(place), archive)


def _only_store(folder: Path, archive: Path) -> Path:
    """The folder two levels above the records, when there is just one such."""
    records = [path for path in folder.rglob("*.json") if not any(p.startswith(".") for p in path.parts[1:-1])]
    stores = {path.parent.parent for path in records}
    if len(stores) != 1:
        found = "no records" if not stores else f"records in {len(stores)} places; one is accepted"
        raise RecordError(f"The archive {str(archive)!r} holds {found}.")
    return stores.pop()
