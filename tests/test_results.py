"""The store keeps what it was given, whole or not at all, and refuses what it cannot vouch for."""

import math
import os
import re
from pathlib import Path

import pytest
import torch
from sample_records import configuration, record

from ntkbook import results
from ntkbook.image_files import encode
from ntkbook.results import Levels, RecordError, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, hidden ones too."""
    return {
        os.path.relpath(os.path.join(top, name), folder): Path(top, name).read_bytes()
        for top, _, names in os.walk(folder)
        for name in names
    }


def test_add_get_and_iterate(store):
    assert list(store) == []
    assert store.get(configuration()) is None
    first, second = record(), record(image="baboon")
    path = store.add(first)
    store.add(second)
    assert path == store.folder / "nystrom" / f"house-{configuration().key}.json"
    assert store.get(configuration()) == first
    assert list(store) == [second, first]
    assert set(files(store.folder)) == {os.path.join("nystrom", store.path(r.configuration).name) for r in store}
    assert path.read_text(encoding="utf-8") == first.to_json()


def test_a_run_done_twice_is_kept_once(store):
    path = store.add(record())
    before = files(store.folder)
    store.add(record(best_psnr=28.704, seconds=99, outcome={}))
    assert files(store.folder) == before
    assert Store(store.folder).get(configuration()).seconds == 2.5
    assert path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best_psnr": 28.71}, "best PSNR 28.7000 dB against 28.7100 dB"),
        ({"best_iteration": 501}, "best iteration 500 against 501"),
        ({"curve": {30: 25.6}}, "PSNR at 30 25.5000 dB against 25.6000 dB"),
        ({"levels": Levels(20.3, 13.8)}, "noisy_psnr 20.2000 dB against 20.3000 dB"),
    ],
)
def test_a_record_that_disagrees_is_refused(store, change, message):
    path = store.add(record())
    before = files(store.folder)
    with pytest.raises(RecordError, match=re.escape(message)) as refusal:
        store.add(record(**change))
    assert str(path) in str(refusal.value)
    assert files(store.folder) == before


@pytest.mark.parametrize("fault", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_is_interrupted_leaves_nothing(store, monkeypatch, fault):
    def interrupted(*_):
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(results.os, "replace", interrupted)
        with pytest.raises(type(fault)):
            store.add(record())
    assert files(store.folder) == {}
    store.add(record())
    assert len(list(store)) == 1


def test_a_killed_write_is_passed_over(store):
    path = store.add(record())
    path.with_name(f".{path.name}.0123.tmp").write_text("{", encoding="utf-8")
    path.with_name(f".{path.name}").write_text("{", encoding="utf-8")
    assert list(store) == [record()]
    other = Store(store.folder.parent / "other")
    assert other.merge(store) == 1
    assert list(files(other.folder)) == [f"nystrom/{path.name}"]


def test_a_picture_lies_beside_its_record_and_can_be_replaced(store, monkeypatch):
    assert store.picture(configuration()) == store.folder / "nystrom" / f"house-{configuration().key}.png"
    for content in (b"one", b"another"):
        path = store.add_picture(configuration(), content)
        assert path == store.picture(configuration())
        assert path.read_bytes() == content
    assert list(store) == []

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.add_picture(configuration(), b"a third")
    assert files(store.folder) == {os.path.join("nystrom", path.name): b"another"}
    store.add(record())
    assert list(store) == [record()]


def test_merging_takes_the_pictures_of_new_records(store):
    content = encode(torch.rand(3, 4, 5))
    store.add_picture(configuration(), content)
    store.add(record())
    other = Store(store.folder.parent / "other")
    assert other.merge(store) == 1
    assert other.picture(configuration()).read_bytes() == content
    store.add(record(noise_seed=1))
    store.add_picture(configuration(noise_seed=1), b"not a picture")
    before = files(other.folder)
    with pytest.raises(RecordError, match=r"picture .* is refused: .* cannot be read"):
        other.merge(store)
    assert files(other.folder) == before


def test_find(store):
    for image in ("house", "lena"):
        for columns in (100, 300):
            store.add(record(image=image, settings={"columns": columns, "grid": [1, 2]}))
    store.add(record(method="baseline", architecture=None, input=None, settings={}))
    assert len(store.find()) == 5
    assert [found.configuration.image for found in store.find(image="lena")] == ["lena", "lena"]
    assert len(store.find(method="nystrom", sigma=25.0)) == 4
    assert len(store.find(settings={"columns": 300.0})) == 2
    assert len(store.find(image="lena", settings={"columns": 300, "grid": (1, 2)})) == 1
    assert [found.configuration.method for found in store.find(architecture=None)] == ["baseline"]
    assert store.find(image="peppers") == []
    with pytest.raises(ValueError, match="'columns' is not a criterion; accepted are method, image"):
        store.find(columns=300)
    with pytest.raises(ValueError, match="settings is 300; a mapping is needed"):
        store.find(settings=300)


# Merging


def test_merge_takes_over_what_is_new(store, tmp_path):
    other = Store(tmp_path / "other")
    store.add(record())
    for image in ("house", "lena", "f16"):
        other.add(record(image=image, seconds=7))
    assert store.merge(other.folder) == 2
    assert len(list(store)) == 3
    assert store.get(configuration()).seconds == 2.5
    assert store.get(configuration(image="lena")).seconds == 7
    assert store.merge(str(other.folder)) == 0
    path = store.path(configuration(image="f16"))
    assert path.read_bytes() == other.path(configuration(image="f16")).read_bytes()


def test_merge_takes_all_or_nothing(store, tmp_path):
    other = Store(tmp_path / "other")
    store.add(record(image="lena"))
    for image in ("f16", "house"):
        other.add(record(image=image))
    other.add(record(image="lena", best_psnr=30.0))
    before = files(store.folder)
    with pytest.raises(RecordError, match="best PSNR"):
        store.merge(other)
    assert files(store.folder) == before


def test_merge_of_a_corrupted_folder_takes_nothing(store, tmp_path):
    other = Store(tmp_path / "other")
    other.add(record(image="f16"))
    broken = other.add(record(image="lena"))
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(RecordError, match=re.escape(str(broken))):
        store.merge(other)
    assert files(store.folder) == {}


def test_merge_that_fails_half_way_is_undone(store, tmp_path, monkeypatch):
    other = Store(tmp_path / "other")
    for image in ("f16", "house", "lena"):
        other.add(record(image=image))
    replacing, done = os.replace, []

    def fails_the_third_time(source, target):
        if len(done) == 2:
            raise OSError("disk full")
        done.append(target)
        replacing(source, target)

    monkeypatch.setattr(results.os, "replace", fails_the_third_time)
    with pytest.raises(OSError, match="disk full"):
        store.merge(other)
    assert len(done) == 2
    assert files(store.folder) == {}


def test_merge_refuses_a_folder_that_does_not_exist(store, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        store.merge(tmp_path / "nowhere")


# What is refused on reading


def altered(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-40], "not a valid record"),
        (lambda text: "", "not a valid record"),
        (lambda text: "[]", "it holds a list"),
        (lambda text: altered(text, '"schema": 1', '"schema": 2'), "its schema is 2; accepted is 1"),
        (lambda text: altered(text, '"schema": 1', '"schema": true'), "its schema is True"),
        (lambda text: altered(text, '"best_psnr": 28.7', '"best_psnr": 29.7'), "it was altered"),
        (lambda text: altered(text, '"best_psnr": 28.7', '"best_psnr": NaN'), "it holds NaN"),
        (lambda text: altered(text, '"best_psnr": 28.7', '"best_psnr": 1e999'), "best_psnr is inf"),
        (lambda text: altered(text, '"best_psnr": 28.7', '"best_psnr": "28.7"'), "best_psnr is '28.7'"),
        (lambda text: altered(text, '"best_psnr": 28.7', f'"best_psnr": 1{"0" * 400}'), "not a valid record"),
        (lambda text: altered(text, '"best_psnr": 28.7,', ""), "best_psnr"),
        (lambda text: altered(text, '"best_psnr"', '"best"'), "best"),
        (lambda text: altered(text, '"noise_seed": 0', '"noise_seed": 1'), "its key is"),
        (lambda text: altered(text, '"500": 28.7', '"[1]": 28.7'), "not a valid record"),
        (lambda text: altered(text, '"seconds": 2.5', '"seconds": 2.5, "seconds": 2.5'), "one key twice"),
        (lambda text: altered(text, '"key"', '"extra": 1, "key"'), "extra"),
        (lambda text: "[" * 100_000, "not a valid record"),
    ],
)
def test_a_bad_file_is_refused_by_name(store, change, message):
    path = store.add(record())
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    for read in (lambda: list(store), lambda: store.get(configuration()), lambda: store.add(record())):
        with pytest.raises(RecordError, match=re.escape(message)) as refusal:
            read()
        assert str(path) in str(refusal.value)


def test_bytes_that_are_not_text_are_refused_by_name(store):
    path = store.add(record())
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match=re.escape(str(path))):
        list(store)


@pytest.mark.parametrize("place", ["nystrom/house.json", "exact/{name}", "{name}"])
def test_a_file_in_the_wrong_place_is_refused_by_name(store, place):
    path = store.add(record())
    wrong = store.folder / place.format(name=path.name)
    wrong.parent.mkdir(exist_ok=True)
    path.rename(wrong)
    with pytest.raises(RecordError, match=f"its place in the store is 'nystrom/{path.name}'") as refusal:
        list(store)
    assert str(wrong) in str(refusal.value)


def test_folder_of_the_store(tmp_path, monkeypatch):
    monkeypatch.delenv("NTKBOOK_RESULTS", raising=False)
    assert Store().folder == Path(results.__file__).resolve().parents[1] / "results"
    monkeypatch.setenv("NTKBOOK_RESULTS", str(tmp_path / "elsewhere"))
    assert Store().folder == tmp_path / "elsewhere"
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; a folder is needed"):
        Store(tmp_path / "file")


def test_records_of_the_checkout_are_valid():
    folder = Path(results.__file__).resolve().parents[1] / "results"
    assert len(list(Store(folder))) == len(list(folder.rglob("*.json")))


# Tables


def test_mean_and_spread():
    assert results.mean_and_spread([1.0, 2.0, 3.0, 6.0]) == (3.0, pytest.approx(math.sqrt(14 / 3)), 4)
    alone = results.mean_and_spread([28.3])
    assert alone.mean == 28.3
    assert math.isnan(alone.spread)
    with pytest.raises(ValueError, match="There are no values"):
        results.mean_and_spread([])
    with pytest.raises(ValueError, match="not all finite"):
        results.mean_and_spread([1.0, math.nan])


def test_frame(store):
    pytest.importorskip("pandas")
    store.add(record())
    store.add(record(method="baseline", architecture=None, settings={"patch": 5}, outcome={}))
    table = results.frame(store)
    assert len(table) == 2
    row = table[table.method == "nystrom"].iloc[0]
    assert row["key"] == configuration().key
    assert row["best_psnr"] == 28.7
    assert row["settings.columns"] == 300
    assert row["outcome.degrees_of_freedom"] == 120.25
    assert row["noisy_psnr"] == 20.2
    assert math.isnan(table[table.method == "baseline"].iloc[0]["settings.columns"])
    assert len(results.frame([])) == 0
