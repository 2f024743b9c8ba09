"""Streaming: the same contract as sets in memory, from chunks that are written here."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
from PIL import Image

from unclip.callbacks.checkpoint import Checkpoint, Stopped
from unclip.data.litdata import LitData
from unclip.data.places import DataUnavailable
from unclip.lit.classifier import ClassifierModule
from unclip.lit.optim import adamw
from unclip.nets.classifier import Classifier

pytest.importorskip("litdata")
N = 100


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred pictures in chunks of seven, whose red is their number."""
    from litdata.streaming.writer import BinaryWriter

    path = tmp_path_factory.mktemp("set")
    writer = BinaryWriter(str(path), chunk_size=7)
    for i in range(N):
        writer[i] = {"image": Image.new("RGB", (10, 8), (i, 0, 0)), "caption": f"number {i}", "kind": i % 2}
    writer.done()
    writer.merge(1)
    return path


def of(path: Path, tmp_path: Path, **settings) -> LitData:
    return LitData(str(tmp_path / "kept"), str(path), **{"image_size": 8, "batch_size": 12, **settings})


def reds(batches: list[dict[str, torch.Tensor]]) -> list[int]:
    return [int(red) for batch in batches for red in batch["image"][:, 0, 0, 0]]


def test_images_captions_and_classes_belong_together(stored: Path, tmp_path: Path):
    data = of(stored, tmp_path, label="kind")
    seen = set()
    for name in ("train", "validation", "test"):
        split = data.split(name)
        numbers = split.images.index_select(0, torch.arange(len(split)))[:, 0, 0, 0].tolist()
        assert [split.captions[i] for i in split.caption_ids.tolist()] == [f"number {n}" for n in numbers]
        assert [split.class_names[i] for i in split.labels.tolist()] == [str(n % 2) for n in numbers]
        assert not seen & set(numbers)
        seen |= set(numbers)
    assert seen == set(range(N))


@pytest.mark.parametrize("ranks", [1, 3])
def test_an_epoch_shows_each_sample_once_whatever_the_ranks(stored: Path, tmp_path: Path, ranks: int):
    data = of(stored, tmp_path)
    loader = data.train_dataloader()
    parts = []
    for rank in range(ranks):
        loader.rank, loader.ranks = rank, ranks
        parts.append(reds(list(loader)))
    together = [red for part in parts for red in part]
    assert len(together) == len(set(together)) == len(data.split("train")) // 12 * 12
    loader.rank, loader.ranks = 0, 1
    assert sorted(reds(list(loader))) == sorted(together)


def test_epochs_differ_and_an_interrupted_one_goes_on_where_it_was(stored: Path, tmp_path: Path):
    loader = of(stored, tmp_path).train_dataloader()
    whole = reds(list(loader))
    batches = iter(loader)
    begun = reds([next(batches), next(batches)])
    state = loader.state_dict()
    resumed = of(stored, tmp_path).train_dataloader()
    resumed.load_state_dict(state)
    assert begun + reds(list(resumed)) == whole
    resumed.set_epoch(1)
    assert reds(list(resumed)) != whole


class Seen(ClassifierModule):
    """Writes down which pictures each piece of a step has, and is asked to stop in the middle of a batch."""

    def __init__(self, asked: Checkpoint, at: int | None = None):
        torch.manual_seed(0)
        super().__init__(Classifier(3, 2, (8,)), partial(adamw, lr=1e-3))
        self.asked, self.at, self.pictures = asked, at, []

    def training_step(self, batch, batch_idx):
        self.pictures.append((self.current_epoch, batch_idx, reds([batch])))
        self.asked.asked_to_stop = len(self.pictures) == self.at
        return super().training_step(batch, batch_idx)


def test_a_training_stopped_in_the_middle_of_an_epoch_goes_on_at_the_next_sample(
    stored: Path, tmp_path: Path
):
    def fit(
        steps: int, at: int | None = None, before: Path | None = None
    ) -> list[tuple[int, int, list[int]]]:
        checkpoint = Checkpoint(1000, str(tmp_path / "checkpoint.ckpt"))
        module = Seen(checkpoint, at)
        trainer = lightning.Trainer(
            max_steps=steps, accelerator="cpu", callbacks=[checkpoint], logger=False, limit_val_batches=0,
            accumulate_grad_batches=2, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        data = of(stored, tmp_path, label="kind", batch_size=12)
        with pytest.raises(Stopped) if at else nullcontext():
            trainer.fit(module, datamodule=data, ckpt_path=before, weights_only=True)
        return module.pictures

    whole = fit(10)
    begun = fit(10, at=16)  # the last piece of the eighth batch, in the second epoch
    rest = fit(10, before=tmp_path / "checkpoint.ckpt")
    assert begun[-1][0] == rest[0][0] == 1
    assert begun + rest == whole


def test_training_images_are_not_held_in_memory(stored: Path, tmp_path: Path):
    data = of(stored, tmp_path)
    assert not isinstance(data.split("train").images, torch.Tensor)
    assert isinstance(data.split("test").images, torch.Tensor)
    assert data.image_channels == 3
    assert of(stored, tmp_path).fingerprint == data.fingerprint
    assert of(stored, tmp_path, image_size=4).fingerprint != data.fingerprint


def test_what_is_wrong_is_said(stored: Path, tmp_path: Path):
    with pytest.raises(DataUnavailable, match="a sample has image, caption, kind; it needs text"):
        of(stored, tmp_path, caption="text").prepare_data()
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataUnavailable, match=r"there is no such folder; give data\.path=FOLDER, as litdata\.optimize"
    ):
        of(tmp_path / "none", tmp_path).prepare_data()
    with pytest.raises(DataUnavailable, match="empty: holds no set of litdata"):
        of(tmp_path / "empty", tmp_path).prepare_data()
