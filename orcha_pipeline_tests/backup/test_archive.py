"""The archive as a file: what is refused of one that is damaged, foreign or newer."""

import gzip
import io
import os
import stat
import tarfile
import tracemalloc

import pytest

from orcha_pipeline.backup.archive import Part, extract, verify, write_archive
from orcha_pipeline.backup.manifest import FORMAT, HEADER, MANIFEST, Manifest
from orcha_pipeline.errors import BackupError
from orcha_pipeline_tests.backup.build import NOW


def write(path, files):
    """An archive of these files (name -> bytes)."""
    parts = []
    for number, (name, content) in enumerate(files.items()):
        source = path.with_name(f"source-{number}")
        source.write_bytes(content)
        parts.append(Part(name, source))

    def manifest(written):
        told = {"made_at": NOW, "orcha": "1", "home": "/h", "simulated": True, "migrations": (), "unfinished": 0}
        return Manifest(files=dict(written), **told)

    return write_archive(path, parts, manifest=manifest)


@pytest.fixture
def small(tmp_path):
    """A whole archive of two files."""
    path = tmp_path / "small.tar.gz"
    write(path, {"home/warehouse.duckdb": os.urandom(300), "home/models/m.json": b"{}" * 50})
    return path


def edited(path, change):
    """The archive again, with what `change` makes of its members (a list of tar header and content)."""
    with tarfile.open(path, "r:gz") as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    target = path.with_name("edited.tar.gz")
    with tarfile.open(target, "w:gz") as tar:
        for member, content in change(members):
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target


def test_what_was_written_is_read_back_as_it_was(tmp_path, small):
    manifest = verify(small)
    assert list(manifest.files) == ["home/warehouse.duckdb", "home/models/m.json"]
    assert manifest.size == 400
    assert stat.S_IMODE(small.stat().st_mode) == 0o600
    extract(small, manifest, lambda name: tmp_path / "out" / name if "models" in name else None)
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["m.json"]
    assert (tmp_path / "out/home/models/m.json").read_bytes() == b"{}" * 50


def test_every_damaged_byte_is_found(tmp_path, small):
    whole, damaged, found = small.read_bytes(), tmp_path / "damaged.tar.gz", 0
    unpacked = gzip.decompress(whole)
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 0x10
        damaged.write_bytes(content)
        try:
            verify(damaged)
        except BackupError:
            found += 1
        else:  # another way to say the same: the distance of a copy among zeros, gzip's own time
            assert gzip.decompress(content) == unpacked
    assert found > 0.9 * len(whole)


def test_an_archive_that_ends_early_is_found(tmp_path, small):
    whole, cut = small.read_bytes(), tmp_path / "cut.tar.gz"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(BackupError):
            verify(cut)


def test_an_archive_without_its_manifest_is_not_whole(small):
    with pytest.raises(BackupError, match="is not whole: it ends without a manifest"):
        verify(edited(small, lambda members: members[:-1]))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda members: [*members[:1], *members[2:]], r"warehouse\.duckdb is not as its manifest says"),
        (lambda members: [*members[:2], *members[1:]], r"warehouse\.duckdb does not belong where it stands"),
        (lambda members: [*members, members[1]], r"does not belong where it stands"),
        (lambda members: [(m, b"x" * len(c) if "m.json" in m.name else c) for m, c in members], "m.json is not as its"),
        (lambda members: members[1:], "is no backup of Orcha"),
    ],
)
def test_files_that_are_missing_double_changed_or_in_another_order_are_found(small, change, told):
    with pytest.raises(BackupError, match=told):
        verify(edited(small, change))


def other(name, **more):
    """A member like no member of ours."""

    def change(members):
        member = tarfile.TarInfo(name)
        for key, value in more.items():
            setattr(member, key, value)
        return [members[0], (member, b""), *members[1:]]

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other("../../etc/passwd"), r"is no backup of Orcha: it holds '\.\./\.\./etc/passwd'"),
        (other("home/models/../../../x"), "is no backup of Orcha: it holds"),
        (other("home/models/../warehouse.duckdb/../../config/orcha.toml"), "is no backup of Orcha: it holds"),
        (other("/etc/passwd"), "is no backup of Orcha: it holds '/etc/passwd'"),
        (other("home/locks/x"), "it holds 'home/locks/x'"),
        (other("home/models/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is no backup of Orcha"),
        (other("home/models/link", type=tarfile.SYMTYPE, linkname="m.json"), "is no backup of Orcha"),
        (other("home/models/link", type=tarfile.LNKTYPE, linkname="home/models/m.json"), "is no backup of Orcha"),
        (other("home/models/pipe", type=tarfile.FIFOTYPE), "is no backup of Orcha"),
        (other("home/models/disk", type=tarfile.BLKTYPE), "is no backup of Orcha"),
        (other("home/models", type=tarfile.DIRTYPE), "is no backup of Orcha"),
    ],
)
def test_what_leads_out_of_the_folder_or_is_no_plain_file_is_refused(small, change, told):
    with pytest.raises(BackupError, match=told):
        verify(edited(small, change))


def test_an_archive_of_a_newer_format_says_to_update_before_its_files_are_looked_at(small):
    def newer(members):
        header = members[0][1].replace(f'"format": {FORMAT}'.encode(), b'"format": 99')
        assert header != members[0][1]
        return [(members[0][0], header), (tarfile.TarInfo("of another kind"), b"")]

    with pytest.raises(BackupError, match=rf"newer Orcha: its format is 99, and this one reads up to {FORMAT}. Update"):
        verify(edited(small, newer))


def test_a_header_or_manifest_that_is_nonsense_is_told_without_its_content(small):
    for name in (HEADER, MANIFEST):
        with pytest.raises(BackupError, match="what it says of itself cannot be read"):
            verify(edited(small, lambda members, name=name: [(m, b"[]" if m.name == name else c) for m, c in members]))


def test_foreign_files_are_refused(tmp_path):
    foreign = tmp_path / "foreign.tar.gz"
    for content in (b"", b"PK\x03\x04 no gzip", gzip.compress(b"no tar" * 200)):
        foreign.write_bytes(content)
        with pytest.raises(BackupError, match=r"no backup of Orcha|is not whole"):
            verify(foreign)
    with tarfile.open(foreign, "w:gz") as tar:
        tar.add(__file__, arcname="photos/holiday.jpg")
    with pytest.raises(BackupError, match=r"is no backup of Orcha: it holds 'photos/holiday\.jpg'"):
        verify(foreign)
    with pytest.raises(BackupError, match=r"There is no archive at .*missing"):
        verify(tmp_path / "missing")
    with pytest.raises(BackupError, match="There is no archive at"):
        verify(tmp_path)


def test_an_archive_that_changes_between_checking_and_unpacking_is_found(tmp_path, small):
    manifest = verify(small)
    small.unlink()
    write(small, {"home/warehouse.duckdb": b"something else", "home/models/m.json": b"{}" * 50})
    with pytest.raises(BackupError, match="was changed while it was read"):
        extract(small, manifest, lambda name: tmp_path / "out" / name)


def test_no_file_is_ever_whole_in_memory(tmp_path):
    path, size = tmp_path / "large.tar.gz", 64 * 2**20
    with (tmp_path / "source-0").open("wb") as file:
        file.truncate(size)
    told = {"made_at": NOW, "orcha": "1", "home": "/h", "simulated": True, "migrations": (), "unfinished": 0}
    tracemalloc.start()
    try:
        manifest = write_archive(
            path,
            [Part("home/models/large", tmp_path / "source-0")],
            manifest=lambda written: Manifest(files=dict(written), **told),
        )
        assert verify(path) == manifest
        extract(path, manifest, lambda name: tmp_path / "out" / name)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out/home/models/large").stat().st_size == size
    assert most < size / 8
