"""Images from folders and .npz files: the pixels as they were stored, and one line about what cannot be used."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.evaluate.image_sets import ImageSetError, load_images


def drawn(n=4, channels=1, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = image.permute(1, 2, 0).numpy()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path)


@pytest.fixture
def folder(tmp_path):
    """Four greyscale PNGs, one in a folder below; named against the order of writing."""
    for name, image in zip(("d.png", "c.PNG", "b/x.png", "a.png"), drawn(), strict=True):
        save(image, tmp_path / "set" / name)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    return tmp_path / "set"


def refusal(path, **options):
    with pytest.raises(ImageSetError) as error:
        load_images(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_and_an_npz_give_the_stored_pixels(tmp_path, channels):
    images = drawn(5, channels)
    for i, image in enumerate(images):
        save(image, tmp_path / "folder" / f"{i}.png")
    np.savez(tmp_path / "nhwc.npz", images.permute(0, 2, 3, 1).numpy())
    np.savez(tmp_path / "nchw.npz", images=images.numpy(), labels=np.arange(5))
    for name in ("folder", "nhwc.npz", "nchw.npz"):
        found = load_images(tmp_path / name)
        assert torch.equal(found, images), name
        assert found.is_contiguous()


def test_an_npz_without_channels_is_greyscale(tmp_path):
    np.savez_compressed(tmp_path / "grey.npz", drawn()[:, 0].numpy())
    assert torch.equal(load_images(str(tmp_path / "grey.npz")), drawn())


def test_files_are_read_in_the_order_of_their_names(folder):
    assert torch.equal(load_images(folder), drawn()[[3, 2, 1, 0]])


def test_jpegs_are_read_and_grey_is_repeated_where_others_are_colour(tmp_path):
    flat = torch.full((3, 8, 8), 96, dtype=torch.uint8)  # which JPEG keeps
    save(flat, tmp_path / "a.jpeg")
    save(drawn(1)[0], tmp_path / "b.png")
    found = load_images(tmp_path)
    assert torch.equal(found[0], flat)
    assert torch.equal(found[1], drawn(1)[0].expand(3, 8, 8))


def test_palettes_are_colours(tmp_path):
    for name, numbers in (("a", [0, 1]), ("b", [1, 0])):
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 7, 10, 20, 30])
        image.putdata(numbers)
        image.save(tmp_path / f"{name}.png")
    colours = torch.tensor([[255, 0, 7], [10, 20, 30]], dtype=torch.uint8).T
    assert torch.equal(load_images(tmp_path), torch.stack([colours, colours.flip(1)]).unsqueeze(2))


def test_corrupt_files_are_counted_named_and_refused_unless_skipped(folder, capsys):
    whole = load_images(folder)
    (folder / "d.png").write_bytes((folder / "d.png").read_bytes()[:60])
    (folder / "e.jpg").write_bytes(b"no image at all")
    message = refusal(folder)
    assert message.startswith("2 of 5 files cannot be read: d.png, e.jpg (")
    assert message.endswith("skip_corrupt=true")
    assert capsys.readouterr().err == ""
    assert torch.equal(load_images(folder, skip_corrupt=True), whole[:3])
    assert "2 of 5 files cannot be read: d.png, e.jpg; left out" in capsys.readouterr().err


def test_many_corrupt_files_are_counted_but_not_all_named(tmp_path):
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(b"")
    assert refusal(tmp_path).startswith("6 of 6 files cannot be read: 0.png, 1.png, 2.png and 3 more (")
    assert refusal(tmp_path, skip_corrupt=True) == "holds no images; a distance needs at least 2"


def test_sizes_that_differ_are_refused_with_the_files_that_do(folder):
    save(drawn(1, size=9)[0], folder / "z.png")
    assert refusal(folder) == "holds images of 2 sizes: 4 are 8x8, 1 not: z.png (9x9)"


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_sets_of_none_and_one_are_refused(tmp_path, kind):
    for n, words in ((0, "no images"), (1, "1 image")):
        path = tmp_path / f"{n}.npz"
        np.savez(path, drawn(n).numpy())
        if kind == "folder":
            path = tmp_path / str(n)
            path.mkdir()
            for image in drawn(n):
                save(image, path / "a.png")
        assert refusal(path) == f"holds {words}; a distance needs at least 2"


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"images": np.zeros((4, 1, 8, 8), np.float32)}, "holds float32; must be uint8"),
        ({"images": np.zeros((4, 8), np.uint8)}, r"holds an array \(4, 8\); must be"),
        ({"images": np.zeros((4, 2, 8, 8), np.uint8)}, "neither end is 1 or 3 channels"),
        ({"images": np.zeros((4, 3, 8, 3), np.uint8)}, "either end may be the channels"),
        ({"x": np.zeros(3), "y": np.zeros(3)}, "has the keys x, y; images must be under images or arr_0"),
        ({"images": np.array([None, 1])}, "cannot be read as an .npz of numbers"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, arrays, why):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ImageSetError, match=why):
        load_images(tmp_path / "x.npz")


def test_what_is_no_set_at_all_is_refused(tmp_path):
    possible = "; possible: a folder of .png|.jpg|.jpeg files, or an .npz"
    (tmp_path / "x.tar").write_bytes(b"")
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04")
    assert refusal(tmp_path / "none") == f"is not there{possible}"
    assert refusal(tmp_path / "x.tar") == f"is a .tar file{possible}"
    assert refusal(tmp_path / "half.npz").startswith("cannot be read as an .npz of numbers (")


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "CMYK", "LA"])
def test_pixels_that_are_neither_grey_nor_rgb_are_refused(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    for name in "ab":
        Image.new(mode, (8, 8)).save(tmp_path / f"{name}.{suffix}")
    assert refusal(tmp_path).startswith(f"a.{suffix} is {mode}; possible: 8 bit greyscale or RGB")


def test_a_file_that_claims_to_be_enormous_is_one_that_cannot_be_read(folder):
    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    (folder / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    assert "1 of 5 files cannot be read: bomb.png" in refusal(folder)
    assert len(load_images(folder, skip_corrupt=True)) == 4
