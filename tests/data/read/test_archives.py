"""Archives: nothing reaches outside, and damage costs what is damaged."""

import io
import os
import stat
import tarfile
import zipfile
from importlib import metadata

import pytest

from codegemma_keras.data.document import Report
from codegemma_keras.data.read import archives, sources

# A licence is told by its whole text.
MIT = next(f for f in metadata.files("attrs") if f.name == "LICENSE").read_text()


def read(source, **options):
    report = Report()
    documents = list(sources.read_source(source, report, **options))
    return {d.path: d for d in documents}, report


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_sdist_loses_its_top_folder(tmp_path):
    path = tmp_path / "lib-1.0.tar.gz"
    make_tar(path, [("lib-1.0/LICENSE", MIT.encode()), ("lib-1.0/lib/a.py", b"x = 1")])
    found, _ = read(path)
    assert set(found) == {"LICENSE", "lib/a.py"}
    assert found["lib/a.py"].repo == "lib-1.0"
    assert found["lib/a.py"].licence == "MIT"


def test_archives_cannot_reach_outside(tmp_path):
    path = tmp_path / "evil.tar.gz"
    bad = [
        ("../up.py", b"1"),
        ("/abs.py", b"2"),
        ("a/../../b.py", b"3"),
        ("link", None),
    ]
    make_tar(path, [*bad, ("ok.py", b"x = 1")])
    found, report = read(path)
    assert set(found) == {"ok.py"}
    assert report.number("source", "name leaves the source") == 3
    assert report.number("source", "link or device") == 1
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../up.py", "1")
        archive.writestr("ok.py", "x = 1")
        link = zipfile.ZipInfo("link.py")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    found, report = read(tmp_path / "evil.zip")
    assert set(found) == {"ok.py"}
    assert report.number("source", "name leaves the source") == 1
    assert report.number("source", "link or device") == 1
    assert sorted(os.listdir(tmp_path)) == ["evil.tar.gz", "evil.zip"]


def test_a_bomb_is_stopped_by_its_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ALLOWED_BYTES", 1 << 20)
    monkeypatch.setattr(archives, "MAX_RATIO", 20)
    path = tmp_path / "bomb.tar.gz"
    zeros = [(f"{i}.py", bytes(60_000)) for i in range(400)]
    make_tar(path, [("a.py", b"x = 1"), *zeros[:40]])
    found, report = read(path)
    assert 0 < len(found) < 20
    lost = report.number("source", "archive too large")
    # "Binary" are those that were read: they hold zeros.
    assert lost + report.number("filter", "binary") + len(found) == 41
    # Beyond four times what is allowed, nobody counts.
    make_tar(path, zeros)
    _, report = read(path)
    assert report.number("source", "rest of an archive too large") == 1
    assert 0 < report.number("source", "archive too large") < 350


def test_what_lies_behind_a_damaged_header_is_read(tmp_path):
    """Plain tarfile takes the damage for the end, and says nothing."""
    path = tmp_path / "lib.tar"
    prefix = "lib-1.0/"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(10):
            data = f"x = {i}\n".encode() * 100
            name = f"{'long/' * 30}{i}.py" if i % 2 else f"{i}.py"
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        headers = [m.offset for m in tar.getmembers()]
    data = bytearray(path.read_bytes())
    data[headers[4] : headers[4] + 100] = os.urandom(100)
    data[headers[7] + 148 : headers[7] + 156] = b"garbage!"
    path.write_bytes(data)
    found, report = read(path)
    # The name of a file whose long name was damaged is cut off.
    whole = {int(n.rpartition("/")[2][:-3]) for n in found if n.endswith(".py")}
    assert whole >= {0, 1, 2, 3, 5, 6, 8, 9}
    assert report.number("source", "damaged header") == 2
    assert f"lib:bytes from {headers[4]}" in report.examples["source", "damaged header"]
    assert found["long/" * 30 + "5.py"].text == "x = 5\n" * 100


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_an_archive_that_is_cut_off_says_so(tmp_path, kept):
    path = tmp_path / "cut.tar.gz"
    make_tar(path, [(f"{i}.py", os.urandom(5000).hex().encode()) for i in range(20)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    found, report = read(path)
    assert 0 < len(found) < 20
    lost = report.examples["source", "rest of a damaged archive"]
    assert lost == ["cut:cut.tar.gz"]
    (tmp_path / "no.zip").write_bytes(b"not an archive")
    found, report = read(tmp_path / "no.zip")
    assert not found
    assert report.number("source", "rest of a damaged archive") == 1


def test_a_bad_member_of_a_zip_costs_itself(tmp_path):
    path = tmp_path / "lib.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(6):
            archive.writestr(f"{i}.py", os.urandom(400).hex())
        places = [info.header_offset for info in archive.infolist()]
    data = bytearray(path.read_bytes())
    data[places[1] + 60 : places[1] + 90] = bytes(30)  # its contents
    data[places[3] : places[3] + 4] = b"JUNK"  # its header
    path.write_bytes(data)
    found, report = read(path)
    assert set(found) == {"0.py", "2.py", "4.py", "5.py"}
    assert report.number("source", "damaged member") == 2
    assert report.examples["source", "damaged member"] == ["lib:1.py", "lib:3.py"]


def test_members_beyond_the_limit_are_counted_each(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    path = tmp_path / "many.tar.gz"
    make_tar(path, [(f"{i}.py", b"x = 1\n") for i in range(10)])
    found, report = read(path)
    assert set(found) == {"0.py", "1.py", "2.py"}
    assert report.number("source", "archive of too many members") == 7


def test_bad_names_cost_themselves(tmp_path):
    path = tmp_path / "names.tar"
    with tarfile.open(path, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        for name in ("caf\xe9.py", "a\nb.py", "x" * 3000 + ".py", "ok.py"):
            info = tarfile.TarInfo(name)
            info.size = 6
            tar.addfile(info, io.BytesIO(b"x = 1\n"))
    found, report = read(path)
    assert set(found) == {"ok.py"}
    for reason in (
        "name is not UTF-8", "control character in the name", "name too long",
    ):  # fmt: skip
        assert report.number("source", reason) == 1


def test_an_archive_that_cannot_be_opened(tmp_path, monkeypatch):
    path = tmp_path / "lib.tar.gz"
    make_tar(path, [("a.py", b"x = 1")])

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    report = Report()
    assert list(sources.read_source(path, report)) == []
    assert report.number("source", "unreadable") == 1
