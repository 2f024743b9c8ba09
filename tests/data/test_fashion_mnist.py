"""Finding, verifying, replacing and reading the files of Fashion-MNIST; no network, tiny files of the same
format."""

import gzip
import shutil

import pytest
import torch

from unclip.data.fashion_mnist import TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS
from unclip.data.places import DataUnavailable, DebianPackage, Download, Folder


def filled(published, folder):
    shutil.copytree(published[0], folder, dirs_exist_ok=True)
    return folder


def test_missing_files_come_from_the_first_place_that_has_them_and_the_place_is_named(
    tiny_fashion, published, tmp_path, capsys
):
    data = tiny_fashion(str(tmp_path / "data"))
    tiny_fashion.places = (Folder(tmp_path / "nothing"), Folder(published[0]), Download("http://never.asked"))
    data.prepare_data()
    log = capsys.readouterr().err
    assert f"{tmp_path / 'nothing'}" in log
    assert "no such folder" in log
    assert f"4 file(s) from {published[0]}, verified" in log
    assert "never.asked" not in log
    assert len(data.split("test")) == 20


def test_a_complete_folder_is_left_alone(tiny_fashion, published, tmp_path, capsys):
    folder = filled(published, tmp_path / "data")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    tiny_fashion(str(folder)).prepare_data()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before  # not even a lock
    assert capsys.readouterr().err == ""


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def not_gzip(path):
    path.write_bytes(b"<html>404</html>")


def another_data_set(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))


def too_short(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def too_long(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncated, "is truncated"),
        (not_gzip, "is not a whole gzip file"),
        (another_data_set, "is not the published file"),
        (too_short, "holds 47055 bytes instead of 47056"),
        (too_long, "holds more than 47056 bytes instead of 47056"),
    ],
)
def test_a_bad_file_is_named_and_replaced_before_anything_is_read(
    tiny_fashion, published, tmp_path, capsys, damage, words
):
    folder = filled(published, tmp_path / "data")
    good = tiny_fashion(str(folder)).split("train").fingerprint
    damage(folder / TRAIN_IMAGES)
    assert tiny_fashion(str(folder)).split("train").fingerprint == good
    log = capsys.readouterr().err
    assert f"{folder / TRAIN_IMAGES} {words}" in log
    assert f"1 file(s) from {published[0]}" in log


def test_a_bad_copy_elsewhere_is_never_taken_and_the_error_lists_every_place(
    tiny_fashion, published, tmp_path, monkeypatch
):
    bad = filled(published, tmp_path / "bad")
    truncated(bad / TEST_LABELS)
    tiny_fashion.places = (
        Folder(bad),
        Download("http://127.0.0.1:9/mirror", timeout=1),  # the port "discard": refused at once
        DebianPackage("no-such-package", "x"),
    )
    data = tiny_fashion(str(tmp_path / "data"))
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine without apt-get
    with pytest.raises(DataUnavailable) as caught:
        data.prepare_data()
    message = str(caught.value)
    assert f"not complete in {tmp_path / 'data'}: {TEST_LABELS}" in message
    assert f"{bad}: {bad / TEST_LABELS} is truncated" in message
    assert f"http://127.0.0.1:9/mirror: {TEST_LABELS}: " in message
    assert "Debian package no-such-package: this machine has no apt-get and no dpkg" in message
    assert "unclip data fetch fashion_mnist" in message
    # what was good has been kept, and no temporary file is left
    assert {path.name for path in (tmp_path / "data").iterdir()} == {*published[1], ".lock"} - {TEST_LABELS}


def test_the_splits_are_the_first_and_last_of_the_training_files_and_the_test_files(
    tiny_fashion, published, tmp_path
):
    data = tiny_fashion(str(tmp_path))
    every = published[1][TRAIN_IMAGES].read(published[0] / TRAIN_IMAGES)
    labels = published[1][TRAIN_LABELS].read(published[0] / TRAIN_LABELS)
    train, validation = data.split("train"), data.split("validation")
    assert len(train) == 50
    assert torch.equal(torch.cat([train.images, validation.images])[:, 0, 2:30, 2:30], every)
    assert torch.equal(torch.cat([train.labels, validation.labels]), labels.long())
    assert data.split("test").fingerprint not in (train.fingerprint, validation.fingerprint)
    border = train.images.clone()
    border[:, :, 2:30, 2:30] = 0
    assert border.max() == 0


def test_captions_are_the_ones_of_the_reference_configuration(tiny_fashion, tmp_path):
    split = tiny_fashion(str(tmp_path)).split("train")
    assert split.captions[0] == "An image of a t-shirt/top"
    assert split.captions[1] == "An image of trousers"
    assert split.captions[9] == "An image of an ankle boot"
    assert torch.equal(split.caption_ids, split.labels)  # one caption a class


def test_padding_cannot_shrink_and_bilinear_can(tiny_fashion, tmp_path):
    with pytest.raises(ValueError, match="image_size = 16: must be 28 or more with resize=pad"):
        tiny_fashion(str(tmp_path), image_size=16)
    images = tiny_fashion(str(tmp_path), image_size=14, resize="bilinear").split("test").images
    whole = tiny_fashion(str(tmp_path), image_size=28).split("test").images
    assert images.shape[-2:] == (14, 14)
    assert (
        abs(images.double().mean() - whole.double().mean()) < 2
    )  # an average of the pixels, not a selection


def test_a_download_is_verified_and_taken(tiny_fashion, published, tmp_path, capsys):
    tiny_fashion.places = (Download(published[0].as_uri()),)
    assert len(tiny_fashion(str(tmp_path / "data")).split("train")) == 50
    assert f"4 file(s) from {published[0].as_uri()}, verified" in capsys.readouterr().err


def test_a_debian_package_is_downloaded_with_private_lists_and_unpacked(
    tiny_fashion, published, tmp_path, capsys, monkeypatch
):
    # stand-ins for the two programs: apt-get makes a file, dpkg copies; what they were asked is written down
    for name, script in {
        "apt-get": 'case "$*" in *download*) touch data_1.0_all.deb;; esac',
        "dpkg": f'mkdir -p "$3/usr/share/x"; cp {published[0]}/* "$3/usr/share/x"',
    }.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/asked\n{script}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    tiny_fashion.places = (DebianPackage("data", "usr/share/x"),)
    assert len(tiny_fashion(str(tmp_path / "data")).split("train")) == 50
    assert "4 file(s) from Debian package data, verified" in capsys.readouterr().err
    update, download, unpack = (tmp_path / "asked").read_text().splitlines()
    assert update.endswith(" update")
    assert download.endswith(" download data")
    assert all("Dir::State=/" in line and "Dir::Cache=/" in line for line in (update, download))
    assert unpack.startswith("dpkg -x ")
