"""One small file from the network: with the right bytes, in bounded time, or not at all."""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

# A host that says nothing for this long is given up; one that trickles is given up after the second number.
SILENCE_SECONDS = 8.0
DOWNLOAD_SECONDS = 120.0
# Once the network gave no answer, it is not asked again for this long: nine images must not wait nine times.
PAUSE_SECONDS = 300.0
_paused_until = 0.0


class DownloadError(OSError):
    """A file could not be downloaded."""


def cache_folder() -> Path | None:
    """The user's cache for this package.

    Returns:
        Its path, which need not exist yet; None when pooch is not installed.
    """
    if importlib.util.find_spec("pooch") is None:
        return None
    import pooch

    return Path(pooch.os_cache("ntkbook"))


def fetch(url: str, sha256: str, filename: str) -> Path:
    """Download a file into the user's cache.

    A host that stays silent is given up after 8 seconds in all, the look-up of its name included. It is then
    not asked again for five minutes. The file appears in the cache only when it is complete and its SHA-256
    is right.

    Args:
        url: Where to fetch it.
        sha256: The expected SHA-256, in hexadecimal.
        filename: Its name in the cache.

    Returns:
        The path of the file.

    Raises:
        DownloadError: If pooch is missing, the host does not answer or refuses, or the cache cannot be
            written.
        ValueError: If what came has another SHA-256.
    """
    global _paused_until
    folder = cache_folder()
    if folder is None:
        raise DownloadError("cannot be downloaded, since the package pooch is not installed")
    if time.monotonic() < _paused_until:
        raise DownloadError(f"was not asked for again, since {url} could not be reached a moment ago")
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", filename, folder, downloader=_fetch_in_time))
    except TimeoutError as error:
        _paused_until = time.monotonic() + PAUSE_SECONDS
        raise DownloadError(f"could not be downloaded from {url} ({error})") from error
    except OSError as error:
        raise DownloadError(f"could not be downloaded from {url} ({error})") from error
    except ValueError as error:  # how pooch reports a wrong hash
        raise ValueError(f"what {url} sent is not {filename}: its SHA-256 is not {sha256}") from error
    finally:
        logger.setLevel(level)


def _fetch_in_time(url: str, output_file: str | os.PathLike[str], _pooch: object) -> None:
    """Pooch's downloader with limits on silence and on the whole.

    The time-out of a socket bounds neither the look-up of the host's name nor how many addresses are tried in
    turn, so a thread fetches and this one waits for its pieces.
    """
    pieces: queue.Queue[bytes | Exception | None] = queue.Queue()

    def read_pieces() -> None:
        try:
            with urllib.request.urlopen(url, timeout=SILENCE_SECONDS) as response:
                while piece := response.read1(1 << 16):
                    pieces.put(piece)
            pieces.put(None)
        except Exception as error:  # handed to the waiting thread, whatever it is
            pieces.put(error)

    threading.Thread(target=read_pieces, daemon=True).start()
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    content = bytearray()
    while True:
        try:
            piece = pieces.get(timeout=SILENCE_SECONDS)
        except queue.Empty:
            raise TimeoutError(f"no answer within {SILENCE_SECONDS:g} seconds") from None
        if piece is None:
            break
        if isinstance(piece, urllib.error.URLError) and not isinstance(piece, urllib.error.HTTPError):
            raise TimeoutError(f"no connection: {piece.reason}") from piece
        if isinstance(piece, Exception):
            raise piece
        content += piece
        if time.monotonic() > deadline:
            raise TimeoutError(f"not complete after {DOWNLOAD_SECONDS:g} seconds")
    Path(output_file).write_bytes(content)
