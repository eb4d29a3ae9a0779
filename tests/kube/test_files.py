"""Files that change while we run."""

from pathlib import Path

import pytest
from twisted.internet.task import Clock

from tailproxy.kube.credentials import certificates, private_key, token
from tailproxy.kube.files import Constant, WatchedFile
from tests.kube.tls import client_pair, pem
from tests.proxy.servers import Authority


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "token"


def test_a_file_is_read_again_within_a_minute(path, clock):
    path.write_bytes(b"one\n")
    file = WatchedFile(path, clock, token)
    assert file.read() == b"one\n"
    path.write_bytes(b"two\n")
    assert file.read() == b"one\n"
    clock.advance(60)
    assert file.read() == b"two\n"


def test_the_same_content_is_the_same_object(path, clock):
    path.write_bytes(b"one")
    file = WatchedFile(path, clock, token)
    first = file.read()
    path.write_bytes(b"one")
    clock.advance(60)
    assert file.read() is first


@pytest.mark.parametrize("bad", [b"", b" \n", b"two\nlines", b"tok\xc3\xa9n"])
def test_a_bad_content_does_not_replace_a_good_one(path, clock, bad):
    path.write_bytes(b"one")
    file = WatchedFile(path, clock, token)
    file.read()
    path.write_bytes(bad)
    clock.advance(60)
    assert file.read() == b"one"
    assert str(path) in file.error
    assert "two" not in file.error


def test_a_file_that_vanishes_leaves_its_last_content(path, clock):
    path.write_bytes(b"one")
    file = WatchedFile(path, clock, token)
    file.read()
    path.unlink()
    clock.advance(60)
    assert file.read() == b"one"
    path.write_bytes(b"two")
    clock.advance(60)
    assert (file.read(), file.error) == (b"two", "")


def test_a_file_that_comes_late_is_seen_within_a_second(path, clock):
    file = WatchedFile(path, clock, token)
    assert file.read() is None
    assert "No such file" in file.error
    path.write_bytes(b"one")
    clock.advance(1)
    assert file.read() == b"one"


def test_a_swapped_symbolic_link_is_noticed(tmp_path, clock):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    data = tmp_path / "..data"
    data.symlink_to("one")
    (tmp_path / "token").symlink_to("..data/token")
    file = WatchedFile(tmp_path / "token", clock, token)
    assert file.read() == b"one"
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(data)
    clock.advance(60)
    assert file.read() == b"two"


def test_an_expired_file_is_read_at_once(path, clock):
    path.write_bytes(b"one")
    file = WatchedFile(path, clock, token)
    file.read()
    path.write_bytes(b"two")
    file.expire()
    assert file.read() == b"two"


def test_a_constant_stays_what_it_is():
    constant = Constant(b"x")
    constant.expire()
    assert (constant.read(), constant.error) == (b"x", "")


def test_certificates_are_told_from_anything_else():
    authority = Authority()
    assert certificates(authority.pem + authority.pem) == [authority.certificate] * 2
    with pytest.raises(ValueError, match="no certificate"):
        certificates(b"-----BEGIN RSA")


def test_private_keys_are_told_from_anything_else():
    _, key = client_pair(Authority(), "a")
    assert pem(private_key(key)) == key
    with pytest.raises(ValueError, match="no private key"):
        private_key(b"nothing")
