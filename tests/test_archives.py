"""`ntkbook merge`: the records of another machine, all of them or none."""

import io
import shutil
import tarfile
import zipfile

import pytest
import torch
from command_line import call, listing
from sample_records import configuration, record

from ntkbook.archives import record_folder
from ntkbook.image_files import encode
from ntkbook.results import Store


@pytest.fixture
def made(tmp_path):
    """A store with two records and a picture, as another machine has it."""
    store = Store(tmp_path / "there" / "results")
    store.add(record())
    store.add(record(noise_seed=1))
    store.add_picture(configuration(), encode(torch.rand(3, 4, 5)))
    return store


@pytest.mark.parametrize("kind", ["folder", "deep folder", "tar", "gztar", "xztar", "zip", "deep zip"])
def test_merge_takes_folders_and_archives(made, tmp_path, kind):
    top = made.folder.parent if kind.startswith("deep") else made.folder
    given = top
    if not kind.endswith("folder"):
        given = shutil.make_archive(str(tmp_path / "records"), kind.split()[-1], top)
    here = tmp_path / "here"
    result = call("merge", given, "--results", here)
    assert result.out == [f"2 of 2 records of {given} were new; {here} has them"]
    assert listing(here) == listing(made.folder)
    again = call("merge", given, "--results", here)
    assert (again.code, again.out) == (0, [f"0 of 2 records of {given} were new; {here} has them"])


def test_a_record_that_disagrees_leaves_everything_as_it_was(made, tmp_path):
    here = Store(tmp_path / "here")
    here.add(record(noise_seed=1, best_psnr=99.0))
    before = listing(here.folder)
    result = call("merge", made.folder, "--results", here.folder)
    assert result.code == 1
    assert "a second run of its configuration differs" in result.err[0]
    assert listing(here.folder) == before


def _tar_with(path, name, kind=tarfile.REGTYPE, link=""):
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        content = b"{}"
        member.size = len(content) if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../escaped.json", tarfile.REGTYPE, ""),
        ("results/nystrom/link.json", tarfile.SYMTYPE, "/etc/passwd"),
        ("results/nystrom/pipe.json", tarfile.FIFOTYPE, ""),
    ],
)
def test_an_archive_that_reaches_outside_is_refused(tmp_path, name, kind, link):
    archive = _tar_with(tmp_path / "bad.tar", name, kind, link)
    before = listing(tmp_path)
    result = call("merge", archive, "--results", tmp_path / "here")
    assert result.code == 1
    assert "cannot be unpacked" in result.err[0]
    assert listing(tmp_path) == before


def test_a_zip_cannot_reach_outside(tmp_path):
    archive = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../escaped.json", "{}")
    result = call("merge", archive, "--results", tmp_path / "here")
    assert (result.code, [path.name for path in tmp_path.iterdir()]) == (1, ["bad.zip"])
    assert "holds no records" in result.err[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no archive"), (b"not a tar", "cannot be unpacked")],
)
def test_what_is_not_an_archive_is_refused(tmp_path, content, says):
    archive = tmp_path / "records.tar"
    if content is not None:
        archive.write_bytes(content)
    result = call("merge", archive, "--results", tmp_path / "here")
    assert result.code == 1
    assert says in result.err[0]
    assert not (tmp_path / "here").exists()


def test_two_stores_in_one_archive_are_refused(made, tmp_path):
    shutil.copytree(made.folder, made.folder.parent / "second")
    assert "records in 2 places; one is accepted" in call("merge", made.folder.parent).err[0]


def test_unpacked_files_go_when_they_have_been_read(made, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "records"), "tar", made.folder)
    with record_folder(tmp_path / "records.tar") as folder:
        assert folder.is_dir()
    assert not folder.exists()
    assert archive
