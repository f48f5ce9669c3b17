"""The record store: one JSON file per run, named by a hash of the run's configuration.

A record lies at ``<folder>/<method>/<image>-<key>.json``. A folder per method keeps listings short, the image
makes a listing readable, and the key makes the name unique, so two stores merge by copying files. Files that
do not end in ``.json`` (pictures that a figure needs) may lie beside the records.
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ntkbook.configuration import Configuration, canonical_json
from ntkbook.files import replacing
from ntkbook.records import Levels, Provenance, Record, RecordError, checkout, provenance

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Configuration",
    "Levels",
    "MeanSpread",
    "Provenance",
    "Record",
    "RecordError",
    "Store",
    "default_folder",
    "frame",
    "mean_and_spread",
    "provenance",
]


def default_folder() -> Path:
    """``$NTKBOOK_RESULTS``, or else ``results`` in the checkout, or in the working folder without one."""
    chosen = os.environ.get("NTKBOOK_RESULTS")
    return Path(chosen) if chosen else (checkout() or Path.cwd()) / "results"


class Store:
    """The records in a folder. The folder is the state: nothing is cached, and other processes may add to it.

    Args:
        folder: where the records are; by default :func:`default_folder`. It is created when the first record
            is added.

    Raises:
        NotADirectoryError: when ``folder`` is a file.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"The record store {str(self.folder)!r} is a file; a folder is needed.")

    def path(self, configuration: Configuration) -> Path:
        """Where the record of a configuration lies, whether it is there or not."""
        return self.folder / configuration.method / f"{configuration.image}-{configuration.key}.json"

    def add(self, record: Record) -> Path:
        """Write a record by atomic rename: a run killed at any moment leaves a whole file or none.

        A record that is already there is kept as it is when the new one agrees with it.

        Args:
            record: what to keep.

        Returns:
            The path of the record's file.

        Raises:
            RecordError: when a record of this configuration is there and differs beyond rounding (the best
                iteration, or 0.005 dB in any PSNR, see :meth:`~ntkbook.records.Record.disagreement`), or cannot
                be read. The first one is kept.
        """
        path = self.path(record.configuration)
        if not self._accepts(record):
            return path
        _write(path, record.to_json().encode("utf-8"))
        return path

    def picture(self, configuration: Configuration) -> Path:
        """Where the picture of a run lies, a PNG file beside its record, whether it is there or not."""
        return self.path(configuration).with_suffix(".png")

    def add_picture(self, configuration: Configuration, content: bytes) -> Path:
        """Write the picture of a run, the bytes of a PNG file, by atomic rename; one that is there is replaced."""
        path = self.picture(configuration)
        _write(path, content)
        return path

    def get(self, configuration: Configuration) -> Record | None:
        """The record of a configuration, or None when there is none.

        Raises:
            RecordError: when its file is malformed, altered or truncated.
        """
        path = self.path(configuration)
        return self._load(path) if path.exists() else None

    def find(self, **criteria: Any) -> list[Record]:
        """The records whose configuration has every value asked for.

        Args:
            criteria: fields of :class:`~ntkbook.configuration.Configuration`. ``settings`` takes a mapping,
                of which every item must be there; other settings may have any value. Equal numbers match (25 and
                25.0), as do lists and tuples.

        Returns:
            The records, in the order of their files' names.

        Raises:
            ValueError: for a criterion that is not a field of :class:`~ntkbook.configuration.Configuration`,
                or settings that are not a mapping.
            RecordError: when a file in the store is malformed, altered, truncated or misplaced.
        """
        names = [item.name for item in dataclasses.fields(Configuration)]
        for name in criteria:
            if name not in names:
                raise ValueError(f"{name!r} is not a criterion; accepted are {', '.join(names)}.")
        settings = criteria.pop("settings", {})
        if not isinstance(settings, Mapping):
            raise ValueError(f"settings is {settings!r}; a mapping is needed.")

        def wanted(configuration: Configuration) -> bool:
            pairs = [(getattr(configuration, name), value) for name, value in criteria.items()]
            for name, value in settings.items():
                if name not in configuration.settings:
                    return False
                pairs.append((configuration.settings[name], value))
            return all(canonical_json(has) == canonical_json(asked) for has, asked in pairs)

        return [record for record in self if wanted(record.configuration)]

    def merge(self, other: str | os.PathLike[str] | Store) -> int:
        """Take over the records of another store with their pictures: all of them, or none when one is refused.

        Args:
            other: a store or its folder.

        Returns:
            How many records were new here.

        Raises:
            FileNotFoundError: when the other folder does not exist.
            RecordError: when a file there is invalid, or a record disagrees with the one here. A picture must be an
                image file; it goes with a record that is new here.
        """
        other = other if isinstance(other, Store) else Store(other)
        if not other.folder.is_dir():
            raise FileNotFoundError(f"The record store {str(other.folder)!r} does not exist; give a folder of records.")
        new = [record for record in other if self._accepts(record)]
        pictures = {r.configuration: other.picture(r.configuration) for r in new}
        if any(path.exists() for path in pictures.values()):
            from ntkbook.image_files import decode  # here, since records alone do not need PyTorch
        contents = {where: path.read_bytes() for where, path in pictures.items() if path.exists()}
        for where, content in contents.items():
            try:
                decode(content, str(pictures[where]))
            except ValueError as error:
                raise RecordError(f"The picture {str(pictures[where])!r} is refused: {error}") from error
        added: list[Path] = []
        try:
            for record in new:
                if record.configuration in contents:
                    added.append(self.add_picture(record.configuration, contents[record.configuration]))
                added.append(self.add(record))
        except BaseException:  # a full disk, an interrupt: leave the store as it was
            for path in added:
                path.unlink(missing_ok=True)
            raise
        return len(new)

    def __iter__(self) -> Iterator[Record]:
        """All records, in the order of their files' names. Hidden and temporary files are passed over."""
        for path in sorted(self.folder.rglob("*.json")):
            if not any(part.startswith(".") for part in path.relative_to(self.folder).parts):
                yield self._load(path)

    def _load(self, path: Path) -> Record:
        try:
            record = Record.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:  # RecordError, or bytes that are not UTF-8
            raise RecordError(f"The record {str(path)!r} is refused: {error}") from error
        if path != self.path(record.configuration):
            place = self.path(record.configuration).relative_to(self.folder).as_posix()
            raise RecordError(f"The record {str(path)!r} is refused: its place in the store is {place!r}.")
        return record

    def _accepts(self, record: Record) -> bool:
        """True when the configuration is new, False when it is here and agrees; raises when it disagrees."""
        present = self.get(record.configuration)
        if present is None:
            return True
        difference = present.disagreement(record)
        if difference:
            path = str(self.path(record.configuration))
            raise RecordError(f"The record {path!r} is kept: a second run of its configuration differs ({difference}).")
        return False


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


class MeanSpread(NamedTuple):
    """Mean, standard deviation (with n - 1; NaN for one value) and number of some values."""

    mean: float
    spread: float
    count: int


def mean_and_spread(values: Iterable[float]) -> MeanSpread:
    """Mean and sample standard deviation of finite numbers.

    Args:
        values: at least one number.

    Returns:
        The mean, the standard deviation with n - 1 in the denominator (NaN when there is one value), and n.

    Raises:
        ValueError: when there is no value, or one is not finite.
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("There are no values; a mean needs at least one.")
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"The values {numbers} are not all finite; a mean needs finite numbers.")
    spread = statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    return MeanSpread(statistics.fmean(numbers), spread, len(numbers))


def frame(records: Iterable[Record]) -> pandas.DataFrame:
    """Records as a table, one row each, for a chapter or a scoreboard.

    Args:
        records: any records, such as a :class:`Store` or what :meth:`Store.find` gave.

    Returns:
        A frame with the configuration's fields, its settings as ``settings.NAME``, the PSNRs in dB, further
        numbers as ``outcome.NAME``, seconds and provenance. A value that a record does not have is missing
        (NaN).
    """
    import pandas  # here, since only tables need it

    rows = []
    for record in records:
        row = {"key": record.configuration.key} | record.configuration.as_dict()
        row |= {f"settings.{name}": value for name, value in row.pop("settings").items()}
        row |= {"best_psnr": record.best_psnr, "best_iteration": record.best_iteration}
        row |= dataclasses.asdict(record.levels) | {"seconds": record.seconds}
        row |= {f"outcome.{name}": value for name, value in record.outcome.items()}
        origin = record.provenance
        row |= {"device": origin.device, "threads": origin.threads, "package": origin.package}
        rows.append(row | {"commit": origin.commit, "date": origin.date})
    return pandas.DataFrame(rows)
