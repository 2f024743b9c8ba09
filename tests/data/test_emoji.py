"""Emoji, from packages like the real ones but of few pictures: captions, splits, alpha, and being without npm."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from unclip.data.emoji import SKIN_TONES, Emoji, PinnedFile, base_code_point, described
from unclip.data.places import DataUnavailable, Folder, Npm

WAVE = {
    "name": "WAVING HAND SIGN",
    "unified": "1F44B",
    "image": "1f44b.png",
    "short_name": "wave",
    "short_names": ["wave"],
    "category": "People & Body",
    "subcategory": "hand-fingers-open",
    "has_img_google": True,
    "has_img_twitter": True,
    "skin_variations": {
        tone: {"image": f"1f44b-{tone}.png", "has_img_google": True, "has_img_twitter": tone != "1F3FF"}
        for tone in SKIN_TONES
    },
}


def entries() -> list[dict]:
    """The hand in its skin tones, and sixty other code points without any."""
    other = {"category": "Objects", "subcategory": "thing", "has_img_google": True, "has_img_twitter": True}
    return [
        WAVE,
        *(
            {"name": f"THING {i}", "unified": f"{i:X}-FE0F", "image": f"{i}.png", "short_name": f"t{i}"}
            | {"short_names": [f"t{i}"], **other}
            for i in range(0x2600, 0x2600 + 60)
        ),
    ]


def package(vendor: str, path: Path) -> PinnedFile:
    """An archive as npm packs it; a picture is half transparent red."""
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), (255, 0, 0, 128)).save(buffer, format="PNG")
    files = {"package/emoji.json": json.dumps(entries()).encode()}
    for entry in entries():
        for drawn in (entry, *entry.get("skin_variations", {}).values()):
            files[f"package/img/{vendor}/64/{drawn['image']}"] = buffer.getvalue()
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return PinnedFile(hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> type[Emoji]:
    source = tmp_path_factory.mktemp("packages")
    names = {vendor: f"emoji-datasource-{vendor}-16.0.0.tgz" for vendor in ("google", "twitter")}
    pinned = {name: package(vendor, source / name) for vendor, name in names.items()}

    class Tiny(Emoji):
        files = pinned
        places = (Folder(source),)

    return Tiny


def test_a_caption_is_vendor_name_and_keywords():
    plain, *tones = described(WAVE, "google")
    assert plain == ("1f44b.png", "google waving hand sign wave fingers open")
    assert tones[0] == ("1f44b-1F3FB.png", "google waving hand sign with light skin wave fingers open")
    assert len(list(described(WAVE, "twitter"))) == len(SKIN_TONES), "one is not drawn by this vendor"
    pair = {**WAVE, "skin_variations": {"1F3FB-1F3FF": {"image": "x.png", "has_img_google": True}}}
    assert "with light skin and dark skin" in list(described(pair, "google"))[1][1]


def test_vendors_and_skin_tones_of_a_base_code_point_share_a_split(tiny: type[Emoji], tmp_path: Path):
    data = tiny(str(tmp_path))
    where: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        found = data.split(split)
        for i in found.caption_ids.tolist():
            thing = next(
                e for e in entries() if e["name"].lower() in found.captions[i].split(" with ")[0] + " "
            )
            where.setdefault(base_code_point(thing), set()).add(split)
    assert len(where) > 50
    assert all(len(splits) == 1 for splits in where.values())
    assert sum(len(data.split(s)) for s in ("train", "validation", "test")) == 2 * 60 + 6 + 5
    assert base_code_point({"unified": "1F469-1F3FB-200D-1F680"}) == base_code_point({"unified": "1F469"})


def test_transparency_is_on_white_and_pixels_are_kept_between_runs(tiny: type[Emoji], tmp_path: Path):
    first = tiny(str(tmp_path))
    pixels = first.split("train").images
    assert pixels.shape[1:] == (3, 64, 64)
    assert pixels[0, :, 5, 5].tolist() == [255, 127, 127], "half red over white"
    for name in tiny.files:
        (tmp_path / name).unlink()
    again = tiny(str(tmp_path))
    assert again.fingerprint == first.fingerprint, "read from what was decoded: no package is needed"


def test_a_machine_without_npm_is_told_so_in_one_line(
    tiny: type[Emoji], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Lonely(tiny):  # type: ignore[misc, valid-type]
        places = (Npm(),)

    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(DataUnavailable, match=r"npm: this machine has no npm, which comes with Node\.js"):
        Lonely(str(tmp_path)).prepare_data()


@pytest.mark.slow
def test_the_real_packages(tmp_path: Path):
    data = Emoji(str(tmp_path))
    try:
        data.prepare_data()
    except DataUnavailable as reason:
        pytest.skip(str(reason))
    assert [len(data.split(s)) for s in ("train", "validation", "test")] == [5406, 1008, 1158]
    assert len(data.captions) == 7560
    corner = data.split("train").images[:, :, 0, 0].float().mean()
    assert corner > 200, "most backgrounds are white"
