"""Sets of the library `datasets`, from folders made here: save_to_disk and its image folders; no network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from unclip.data.huggingface import HuggingFace
from unclip.data.places import DataUnavailable

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty training and ten test pictures of two classes, whose red is their number."""
    folder = tmp_path_factory.mktemp("saved") / "set"

    def split(count: int, first: int):
        features = datasets.Features(
            {
                "img": datasets.Image(),
                "kind": datasets.ClassLabel(names=["a_rose", "tulip"]),
                "words": datasets.Value("string"),
            }
        )
        rows = range(first, first + count)
        content = {
            "img": [Image.new("RGB", (10, 8), (i, 0, 0)) for i in rows],
            "kind": [i % 2 for i in rows],
            "words": [f"number {i}" for i in rows],
        }
        return datasets.Dataset.from_dict(content, features=features)

    datasets.DatasetDict({"train": split(50, 0), "test": split(10, 50)}).save_to_disk(str(folder))
    return folder


def of(path: Path, tmp_path: Path, **settings) -> HuggingFace:
    chosen = {"image": "img", "caption": "words", "image_size": 8, **settings}
    return HuggingFace(str(tmp_path / "decoded"), str(path), **chosen)


def test_columns_become_pictures_and_captions(saved: Path, tmp_path: Path):
    data = of(saved, tmp_path, test="test", label="kind")
    test = data.split("test")
    assert [test.captions[i] for i in test.caption_ids.tolist()] == [f"number {i}" for i in range(50, 60)]
    assert test.images[:, 0, 0, 0].tolist() == list(range(50, 60))
    assert [test.class_names[i] for i in test.labels.tolist()] == ["a rose", "tulip"] * 5
    assert len(data.split("train")) + len(data.split("validation")) == 50
    assert len(data.split("validation")) > 0


def test_classes_become_captions_by_their_names(saved: Path, tmp_path: Path):
    data = of(saved, tmp_path, caption="kind", template="a photo of {}", test="test")
    assert set(data.captions) == {"a photo of a rose", "a photo of tulip"}
    assert data.class_names == ("a rose", "tulip")


def test_an_image_folder_in_the_library_s_own_layout(tmp_path: Path):
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    rows = [{"file_name": f"{i}.png", "text": f"number {i}"} for i in range(40)]
    for i in range(40):
        Image.new("L", (6, 6), i).save(folder / f"{i}.png")
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = of(tmp_path / "set", tmp_path, image="image", caption="text", channels=1)
    train = data.split("train")
    numbers = [int(train.captions[i].split()[1]) for i in train.caption_ids.tolist()]
    assert train.images[:, 0, 3, 3].tolist() == numbers


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"image": "picture"}, "has no column picture; possible: img, kind, words"),
        ({"test": "held_out"}, "has no split held_out; possible: train, test"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(saved: Path, tmp_path: Path, wrong: dict, says: str):
    with pytest.raises(DataUnavailable, match=says):
        of(saved, tmp_path, **wrong).prepare_data()


def test_without_a_network_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach 'x/y' on the Hub\nand more\n")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataUnavailable) as error:
        of(Path("x/y"), tmp_path).prepare_data()
    assert (
        str(error.value)
        == "x/y is no folder here and cannot be had from the hub: Couldn't reach 'x/y' on the Hub"
    )


def test_without_the_library_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataUnavailable, match=r"pip install 'unclip-lab\[huggingface\]'"):
        of(Path("x/y"), tmp_path).prepare_data()
