"""What a run gave, where it ran, and the JSON text that says both.

A :class:`Record` joins a :class:`~ntkbook.configuration.Configuration` with the run's numbers and its
:class:`Provenance`. Its JSON has a fixed order of keys, so that it can be compared line by line, and a digest, so
that an altered or truncated file is noticed. Loading one executes nothing and validates everything.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import re
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ntkbook.configuration import Configuration, checked_number, checked_string, digest, plain

if TYPE_CHECKING:
    import torch

SCHEMA = 1
ROUNDING_DB = 0.005  # two runs of one configuration agree when every PSNR does to this many dB
LIBRARIES = ("torch", "numpy")  # the libraries whose versions can change a number
_COMMIT = re.compile(r"[0-9a-f]{40}(-modified)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class RecordError(ValueError):
    """A record that is malformed, altered, misplaced or at odds with another of its configuration."""


@dataclass(frozen=True)
class Levels:
    """The reference rows of every table, in dB: the noisy image, the constant image of its channel means."""

    noisy_psnr: float
    constant_psnr: float

    def __post_init__(self) -> None:
        for name in ("noisy_psnr", "constant_psnr"):
            object.__setattr__(self, name, float(checked_number(getattr(self, name), f"levels.{name}")))


@dataclass(frozen=True)
class Provenance:
    """Where and with what a run was made. It names no host, no user and no path.

    Attributes:
        device: the device's type and, for an accelerator, its model, such as ``"cpu"`` or ``"cuda (NVIDIA
            A100)"``.
        threads: number of CPU threads that PyTorch used.
        libraries: version by name, Python's included.
        package: version of ntkbook.
        commit: the checkout's commit, with ``-modified`` when ntkbook differed from it, or None outside a
            checkout.
        date: end of the run, UTC, as ``2025-01-31T12:00:00Z``.
        platform: operating system and processor architecture, such as ``"Linux x86_64"``.

    Raises:
        ValueError: for a value of the wrong type or form, or text that holds a path.
    """

    device: str
    threads: int
    libraries: Mapping[str, str]
    package: str
    commit: str | None
    date: str
    platform: str

    __hash__ = None

    def __post_init__(self) -> None:
        if not isinstance(self.libraries, Mapping):
            raise ValueError(f"libraries is a {type(self.libraries).__name__}; a mapping is needed.")
        texts = {name: getattr(self, name) for name in ("device", "package", "date", "platform")}
        texts |= {f"libraries.{name}": version for name, version in self.libraries.items()}
        for name, text in texts.items():
            if re.search(r"[/\\]", checked_string(text, name)):
                raise ValueError(f"{name} is {text!r}; provenance holds no paths.")
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or self.threads < 1:
            raise ValueError(f"threads is {self.threads!r}; a whole number of at least 1 is needed.")
        if self.commit is not None and not _COMMIT.fullmatch(checked_string(self.commit, "commit")):
            raise ValueError(f"commit is {self.commit!r}; accepted are 40 hexadecimal digits (-modified) or None.")
        if not _DATE.fullmatch(self.date):
            raise ValueError(f"date is {self.date!r}; accepted is the form 2025-01-31T12:00:00Z.")
        object.__setattr__(self, "libraries", MappingProxyType(dict(sorted(self.libraries.items()))))

    def as_dict(self) -> dict[str, Any]:
        """The provenance as plain dicts, in the order of the fields."""
        content = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return content | {"libraries": dict(self.libraries)}


def provenance(device: str | torch.device, threads: int | None = None) -> Provenance:
    """The provenance of a run that ends now, in this process.

    Args:
        device: the device the run used, such as ``"cpu"`` or ``"cuda:0"``.
        threads: CPU threads of the run; by default PyTorch's setting.

    Returns:
        Device, threads, versions, commit and date.

    Raises:
        RuntimeError: by PyTorch, for a device it does not know.
    """
    import torch  # here, so that reading records does not wait for it

    device = torch.device(device)
    kind = f"{device.type} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    return Provenance(
        device=kind.replace("/", "-"),
        threads=torch.get_num_threads() if threads is None else threads,
        libraries={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in LIBRARIES},
        package=_package_version(),
        commit=_commit(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        platform=f"{platform.system()} {platform.machine()}",
    )


def checkout() -> Path | None:
    """The folder of the checkout that this package is imported from, or None when it is installed."""
    folder = Path(__file__).resolve().parents[1]
    return folder if (folder / "pyproject.toml").is_file() else None


def _package_version() -> str:
    # The checkout's own number comes first: an older installation may lie beside it.
    folder = checkout()
    if folder is None:
        return importlib.metadata.version("ntkbook")
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def _commit() -> str | None:
    folder = checkout()
    if folder is None or not (folder / ".git").exists():
        return None
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + "-modified" if _git(folder, "status", "--porcelain", "--", "ntkbook") else head
    except (OSError, subprocess.CalledProcessError):  # no git, or no commit yet
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Record:
    """What one run gave.

    Attributes:
        configuration: what was run.
        best_psnr: highest PSNR of the trajectory in dB, against the clean image, after clipping to [0, 1].
        best_iteration: the iteration (or twicing time t) at which it was reached, at least 0.
        curve: PSNR in dB by iteration, at log-spaced iterations, ascending; empty for methods that do not
            iterate.
        levels: the two reference rows.
        seconds: wall-clock seconds of the run.
        provenance: where and with what it was run.
        outcome: further finite numbers by name, such as ``sure_iteration`` or ``weight_change``.

    Raises:
        ValueError: for a value of the wrong type or range, or a curve that exceeds ``best_psnr`` beyond
            rounding.
    """

    configuration: Configuration
    best_psnr: float
    best_iteration: float
    curve: Mapping[float, float]
    levels: Levels
    seconds: float
    provenance: Provenance
    outcome: Mapping[str, float] = field(default_factory=dict)

    __hash__ = None  # the mappings below are compared, not hashed

    def __post_init__(self) -> None:
        for name, kind in (("configuration", Configuration), ("levels", Levels), ("provenance", Provenance)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} is a {type(getattr(self, name)).__name__}; a {kind.__name__} is needed.")
        for name in ("curve", "outcome"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} is a {type(getattr(self, name)).__name__}; a mapping is needed.")
        curve: dict[float, float] = {}
        for iteration, psnr in self.curve.items():
            time = plain(checked_number(iteration, "an iteration of curve", 0), "curve")
            curve[time] = float(checked_number(psnr, f"curve[{time}]"))
        best_psnr = float(checked_number(self.best_psnr, "best_psnr"))
        if curve and max(curve.values()) > best_psnr + ROUNDING_DB:
            top = max(curve.values())
            raise ValueError(
                f"best_psnr is {best_psnr} dB, but the curve reaches {top} dB; give the trajectory's best."
            )
        outcome = {
            checked_string(name, "a name in outcome"): checked_number(self.outcome[name], f"outcome.{name}")
            for name in sorted(self.outcome, key=str)
        }
        object.__setattr__(self, "best_psnr", best_psnr)
        best_iteration = plain(checked_number(self.best_iteration, "best_iteration", 0), "best_iteration")
        object.__setattr__(self, "best_iteration", best_iteration)
        object.__setattr__(self, "curve", MappingProxyType(dict(sorted(curve.items()))))
        object.__setattr__(self, "outcome", MappingProxyType(outcome))
        object.__setattr__(self, "seconds", float(checked_number(self.seconds, "seconds", 0)))

    def disagreement(self, other: Record) -> str | None:
        """How two records of one configuration differ beyond rounding, or None when they agree.

        The best iteration must be the same, and the best PSNR, the reference rows and the curve at shared
        iterations must agree to 0.005 dB. Seconds, provenance and ``outcome`` are not compared.
        """
        if self.best_iteration != other.best_iteration:
            return f"best iteration {self.best_iteration} against {other.best_iteration}"
        pairs = [("best PSNR", self.best_psnr, other.best_psnr)]
        for name in ("noisy_psnr", "constant_psnr"):
            pairs.append((name, getattr(self.levels, name), getattr(other.levels, name)))
        pairs += [(f"PSNR at {t}", self.curve[t], other.curve[t]) for t in self.curve if t in other.curve]
        for what, mine, theirs in pairs:
            if abs(mine - theirs) > ROUNDING_DB:
                return f"{what} {mine:.4f} dB against {theirs:.4f} dB"
        return None

    def to_json(self) -> str:
        """The record as indented JSON with a fixed order of keys, ready for a file."""
        return json.dumps(self._document(), indent=1, allow_nan=False) + "\n"

    def _document(self) -> dict[str, Any]:
        content = {
            "schema": SCHEMA,
            "key": self.configuration.key,
            "configuration": self.configuration.as_dict(),
            "best_psnr": self.best_psnr,
            "best_iteration": self.best_iteration,
            "curve": {json.dumps(iteration): psnr for iteration, psnr in self.curve.items()},
            "levels": dataclasses.asdict(self.levels),
            "outcome": dict(self.outcome),
            "seconds": self.seconds,
            "provenance": self.provenance.as_dict(),
        }
        return content | {"digest": digest(content)}

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read a record back, bit for bit.

        Args:
            text: the content of a record's file.

        Raises:
            RecordError: when it is not JSON, not of this schema, has values that are missing, unknown, of the
                wrong type or not finite, or when its key or digest is not that of its content.
        """
        try:
            document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
            if not isinstance(document, dict):
                raise RecordError(f"it holds a {type(document).__name__}; a record is an object.")
            if document.get("schema") != SCHEMA or isinstance(document["schema"], bool):
                raise RecordError(f"its schema is {document.get('schema')!r}; accepted is {SCHEMA}.")
            stated = {name: document.pop(name, None) for name in ("schema", "key", "digest")}
            for name, kind in (
                ("configuration", Configuration),
                ("levels", Levels),
                ("provenance", Provenance),
            ):
                document[name] = kind(**document[name])
            document["curve"] = {json.loads(iteration): psnr for iteration, psnr in document["curve"].items()}
            record = cls(**document)
        except RecordError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
            raise RecordError(f"it is not a valid record ({error}).") from error
        actual = record._document()
        for name in ("key", "digest"):
            if stated[name] != actual[name]:
                raise RecordError(
                    f"its {name} is {stated[name]!r} but its content's is {actual[name]!r}: it was altered."
                )
        return record


def _refuse_constant(constant: str) -> None:
    raise RecordError(f"it holds {constant}; a record accepts finite numbers only.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise RecordError("it names one key twice.")
    return content
