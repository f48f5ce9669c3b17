"""Where Set9 photographs come from: the order of look-up, checksums, the network, and the stand-ins."""

import dataclasses
import functools
import hashlib
import http.server
import importlib.util
import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from ntkbook import downloads, images, photographs
from ntkbook.image_files import encode

TINY = torch.arange(12, dtype=torch.float64).reshape(3, 2, 2) / 255
CONTENT = encode(TINY)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A machine with nothing on it, where ``house`` is a tiny image; its folders, in the order of look-up."""
    tiny = dataclasses.replace(photographs.SET9["house"], sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(photographs.SET9, "house", tiny)
    folders = {name: tmp_path / name for name in ("given", "work", "checkout", "cache")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setenv("NTKBOOK_DATA", str(folders["given"]))
    monkeypatch.chdir(folders["work"])
    monkeypatch.setattr(photographs, "_CHECKOUT", folders["checkout"])
    monkeypatch.setattr("pooch.os_cache", lambda project: folders["cache"] / project)
    monkeypatch.setattr(downloads, "_paused_until", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    serve_at(monkeypatch, "http://127.0.0.1:9/house.png")  # the discard port: refused at once
    return folders


def serve_at(monkeypatch, url: str) -> None:
    monkeypatch.setattr(photographs.SourceFile, "url", property(lambda self: url))


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_order_of_look_up(places):
    in_order = [
        places["given"] / "house.png",
        places["given"] / "set9" / "house.png",
        places["work"] / "data" / "house.png",
        places["work"] / "data" / "set9" / "house.png",
        places["checkout"] / "data" / "house.png",
        places["checkout"] / "data" / "set9" / "house.png",
        places["cache"] / "ntkbook" / "house.png",
    ]
    for path in in_order:
        put(path, b"wrong")
    for path in in_order:
        with pytest.raises(ValueError, match=str(path)):  # the first of those left is the one that is used
            images.load("house")
        put(path)
        assert torch.equal(images.load("House", torch.float64), TINY)
        assert images.available() == ("house",)
        path.unlink()
    assert images.available() == ()
    with pytest.raises(downloads.DownloadError, match="set NTKBOOK_DATA"):
        images.load("house")


def test_a_wrong_checksum_names_file_and_both_sums(places):
    path = put(places["given"] / "house.png", b"not these bytes")
    got, expected = hashlib.sha256(b"not these bytes").hexdigest(), hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(ValueError, match=f"{path} is not the Set9 image house: .* is {got}, expected {expected}"):
        images.load("house")
    with pytest.raises(ValueError, match="is not the Set9 image house"):
        images.photograph("house")  # no stand-in for a file that is wrong
    assert images.available() == ()


def test_a_path_is_no_name(places):
    put(places["work"] / "house", encode(TINY * 2))
    put(places["given"] / "house.png")
    assert torch.equal(images.load("house", torch.float64), TINY)
    for path in ("./house", Path("house")):
        torch.testing.assert_close(images.load(path, torch.float64), TINY * 2)


def test_unknown_names_say_which_are_known(places):
    with pytest.raises(FileNotFoundError, match=r"'barbara' is neither .* known name \(baboon, f16, .*coffee, rocket"):
        images.load("barbara")
    with pytest.raises(ValueError, match="'barbara' is not a Set9 name; known are baboon"):
        images.photograph("barbara")


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(places, monkeypatch, tmp_path):
    (tmp_path / "served").mkdir()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path / "served")
    ) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        serve_at(monkeypatch, f"http://127.0.0.1:{running.server_port}/house.png")
        yield tmp_path / "served"
        running.shutdown()


def test_download_once_into_the_cache(places, server):
    served = put(server / "house.png")
    assert torch.equal(images.load("house", torch.float64), TINY)
    assert [path.name for path in (places["cache"] / "ntkbook").iterdir()] == ["house.png"]
    served.unlink()
    assert torch.equal(images.load("house", torch.float64), TINY)


def test_wrong_bytes_from_the_network_are_not_kept(places, server):
    put(server / "house.png", b"something else")
    with pytest.raises(ValueError, match=r"sent is not house\.png: its SHA-256 is not"):
        images.load("house")
    assert list((places["cache"] / "ntkbook").iterdir()) == []


def test_a_host_that_refuses(places, server):
    with pytest.raises(downloads.DownloadError, match="HTTP Error 404"):
        images.load("house")
    assert list((places["cache"] / "ntkbook").iterdir()) == []
    put(server / "house.png")  # it answered, so it is asked again
    assert torch.equal(images.load("house", torch.float64), TINY)


def test_a_cache_that_cannot_be_written(places, server):
    put(server / "house.png")
    (places["cache"] / "ntkbook").write_bytes(b"a file where the folder should be")
    with pytest.raises(downloads.DownloadError, match="could not be downloaded"):
        images.load("house")


@pytest.mark.parametrize("first_words", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nsome bytes"])
def test_a_dead_host_is_given_up_in_time(places, monkeypatch, first_words):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serve_at(monkeypatch, f"http://127.0.0.1:{listener.getsockname()[1]}/house.png")
        monkeypatch.setattr(downloads, "SILENCE_SECONDS", 0.4)
        connections = []

        def accept():
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                connection.sendall(first_words)
                connections.append(connection)

        threading.Thread(target=accept, daemon=True).start()
        start = time.monotonic()
        with pytest.raises(downloads.DownloadError, match=r"no answer within 0\.4 seconds|timed out"):
            images.load("house")
        assert time.monotonic() - start < 2
        assert list((places["cache"] / "ntkbook").iterdir()) == []

        start = time.monotonic()
        with pytest.raises(downloads.DownloadError, match="not asked for again"):
            images.load("house")
        photograph = images.photograph("house")
        assert time.monotonic() - start < 0.3 and len(connections) == 1
        assert photograph.stands_in_for == "house"


def test_a_host_that_trickles_is_given_up(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle():
            connection = listener.accept()[0]
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
            for _ in range(40):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return
                time.sleep(0.05)

        threading.Thread(target=trickle, daemon=True).start()
        monkeypatch.setattr(downloads, "DOWNLOAD_SECONDS", 0.3)
        monkeypatch.setenv("no_proxy", "*")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/house.png"
        with pytest.raises(TimeoutError, match=r"not complete after 0\.3 seconds"):
            downloads._fetch_in_time(url, tmp_path / "a", None)
        assert not (tmp_path / "a").exists()


def test_the_promised_time_is_kept():
    assert downloads.SILENCE_SECONDS < 10


def test_without_pooch(places, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pooch" else find_spec(name))
    with pytest.raises(downloads.DownloadError, match="pooch is not installed"):
        images.load("house")
    put(places["given"] / "house.png")
    assert torch.equal(images.load("house", torch.float64), TINY)


@pytest.mark.parametrize("name", list(images.SET9))
def test_a_stand_in_for_every_image(places, name):
    photograph = images.photograph(name.upper())
    assert photograph.stands_in_for == name
    assert photograph.pixels.shape[0] == 3 and photograph.pixels.std() > 0.1
    assert name in photograph.notice and photograph.name in photograph.notice
    if name == "house":
        assert photograph.pixels.shape == (3, 256, 256)


def test_no_stand_in_without_scikit_image(places, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else find_spec(name))
    with pytest.raises(downloads.DownloadError, match="scikit-image, whose photographs could stand in, is missing"):
        images.photograph("house")


def test_the_real_photograph_has_no_notice(places):
    put(places["given"] / "house.png")
    photograph = images.photograph("house", torch.float64)
    assert (photograph.name, photograph.stands_in_for, photograph.notice) == ("house", None, "")
    assert torch.equal(photograph.pixels, TINY)
    assert photograph.source.startswith("gistvision/DIP-denosing@853faac97a451e6430b47f4d4da54c6d08a7ee50:testset/")


def test_the_list_of_set9():
    names = ["baboon", "f16", "house", "kodim01", "kodim02", "kodim03", "kodim12", "lena", "peppers"]
    assert list(images.SET9) == names
    for name, file in images.SET9.items():
        assert file.name == name and len(file.sha256) == 64 and file.url.endswith(f"/{file.path}")
    assert len({file.sha256 for file in images.SET9.values()}) == 9


@pytest.mark.parametrize("name", images.OTHERS)
def test_scikit_image_s_photographs_by_name(places, monkeypatch, name):
    monkeypatch.setattr(photographs, "_download", lambda *_: pytest.fail("the network was asked"))
    path = Path(skimage.__file__).parent / "data" / images.OTHERS[name]
    expected = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) / 255
    loaded = images.load(name.upper(), torch.float64)
    np.testing.assert_allclose(loaded.numpy(), expected, rtol=0, atol=1e-12)
    assert loaded.std() > 0.1
    assert images.available() == ()  # it is none of Set9


def test_a_photograph_of_scikit_image_without_it(places, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else find_spec(name))
    with pytest.raises(FileNotFoundError, match="photograph rocket comes with scikit-image, which is not installed"):
        images.load("rocket")


@pytest.mark.skipif("NTKBOOK_DATA" not in os.environ, reason="NTKBOOK_DATA names no folder with the Set9 files")
def test_the_nine_images_themselves():
    present = images.available()
    if not present:
        pytest.skip("no Set9 image on this machine")
    sizes = {"house": (3, 256, 256)} | {f"kodim{number}": (3, 512, 768) for number in ("01", "02", "03", "12")}
    for name in present:
        image = images.load(name)
        assert image.shape == sizes.get(name, (3, 512, 512)) and image.dtype == torch.float32
        assert image.min() >= 0 and image.max() <= 1
