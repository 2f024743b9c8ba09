"""The loader's promises: every sample once, the same batches on any number of ranks, resumed or not."""

import itertools
from types import SimpleNamespace

import lightning
import pytest
import torch

from unclip.data.images import to_float, to_uint8
from unclip.data.loader import BatchLoader, shifted_and_flipped
from unclip.data.module import ImageTextData
from unclip.data.synthetic import Synthetic

AUGMENTED = {"training": True, "flip": 0.5, "crop_padding": 2, "seed": 3}


def joined(batches):
    batches = list(batches)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_epoch_is_a_permutation_and_the_next_one_another(numbered):
    loader = BatchLoader(numbered, 10, training=True)
    first = joined(loader)["index"]
    loader.sampler.set_epoch(1)
    second = joined(loader)["index"]
    assert len(loader) == 10
    for indices in (first, second):
        assert len(indices) == len(indices.unique()) == 100  # 103 samples, the last 3 dropped
    assert not torch.equal(first, second)
    assert not torch.equal(first, joined(BatchLoader(numbered, 10, training=True, seed=1))["index"])


def test_fields_of_a_batch_belong_to_the_same_samples(numbered):
    batch = joined(BatchLoader(numbered, 10, training=True))
    for name, values in (
        ("image", numbered.images),
        ("caption", numbered.caption_ids),
        ("label", numbered.labels),
    ):
        assert torch.equal(batch[name], values[batch["index"]])


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_parts_of_all_ranks_are_the_batch_of_one_process(numbered, ranks):
    whole = BatchLoader(numbered, 12, **AUGMENTED)
    parts = [BatchLoader(numbered, 12, **AUGMENTED, rank=rank, ranks=ranks) for rank in range(ranks)]
    for batch, *pieces in zip(whole, *parts, strict=True):
        assert_same(batch, joined(pieces))


def test_validation_keeps_every_sample_in_order_on_any_number_of_ranks(numbered):
    indices = [
        [batch["index"] for batch in BatchLoader(numbered, 51, training=False, rank=rank, ranks=2)]
        for rank in (0, 1)
    ]
    assert [len(batches) for batches in indices] == [
        len(BatchLoader(numbered, 51, training=False, rank=rank, ranks=2)) for rank in (0, 1)
    ]
    together = [
        part for parts in itertools.zip_longest(*indices, fillvalue=torch.arange(0)) for part in parts
    ]
    assert torch.equal(torch.cat(together), torch.arange(103))


def test_resuming_within_an_epoch_equals_not_having_stopped(numbered):
    uninterrupted = BatchLoader(numbered, 10, **AUGMENTED)
    uninterrupted.set_epoch(4)
    whole = list(uninterrupted)

    stopped = BatchLoader(numbered, 10, **AUGMENTED)
    stopped.set_epoch(4)
    list(itertools.islice(stopped, 3))
    resumed = BatchLoader(numbered, 10, **AUGMENTED)
    resumed.load_state_dict(stopped.state_dict())
    resumed.set_epoch(4)
    assert_same(joined(resumed), joined(whole[3:]))
    assert_same(joined(resumed), joined(whole))  # and the iteration after that is a whole one


def test_a_position_at_the_end_of_an_epoch_does_not_shorten_the_next(numbered):
    loader = BatchLoader(numbered, 10, training=True)
    list(loader)
    resumed = BatchLoader(numbered, 10, training=True)
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(1)
    assert len(list(resumed)) == 10


def test_augmentation_depends_on_the_sample_and_the_epoch_not_on_the_batch(numbered):
    def by_sample(batch_size, epoch):
        loader = BatchLoader(numbered, batch_size, **AUGMENTED)
        loader.set_epoch(epoch)
        batch = joined(loader)
        return {int(i): image for i, image in zip(batch["index"], batch["image"], strict=True)}

    small, large, later = by_sample(1, 0), by_sample(103, 0), by_sample(103, 1)
    assert all(torch.equal(small[i], large[i]) for i in range(103))
    assert sum(torch.equal(large[i], later[i]) for i in range(103)) < 30  # 1 in 50 by chance


def test_shifts_and_flips_against_a_loop_over_pixels():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    shift, flipped = torch.tensor([[1, -2], [-1, 1]]), torch.tensor([False, True])
    result = shifted_and_flipped(images, shift, flipped)
    for b, c, row, column in itertools.product(range(2), range(3), range(4), range(5)):
        before_flip = 4 - column if flipped[b] else column
        source_row = min(max(row - int(shift[b, 0]), 0), 3)
        source_column = min(max(before_flip - int(shift[b, 1]), 0), 4)
        assert result[b, c, row, column] == images[b, c, source_row, source_column]


def test_flip_probability(numbered):
    flipped = torch.stack(
        [BatchLoader(numbered, 10, training=True, flip=0.25).order(e).flipped for e in range(100)]
    )
    assert flipped.double().mean().item() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("batch_size", "ranks", "words"), [(10, 3, "divisible by the 3 devices"), (104, 1, "only 103")]
)
def test_impossible_batch_sizes_are_refused(numbered, batch_size, ranks, words):
    with pytest.raises(ValueError, match=words):
        BatchLoader(numbered, batch_size, training=True, ranks=ranks)


def test_every_level_of_grey_survives_the_way_to_floats_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    x = to_float(levels)
    assert (x[0], x[255]) == (-1, 1)
    assert torch.equal(to_uint8(x), levels)
    assert to_uint8(torch.tensor([-3.0, 3.0, 0.999, -0.5 / 255])).tolist() == [0, 255, 255, 127]


class Seen(lightning.LightningModule):
    """Writes down which samples each training step saw."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.steps, self.stop_after = [], stop_after

    def training_step(self, batch, batch_idx):
        self.steps.append((self.current_epoch, batch_idx, batch["index"].tolist()))
        return self.weight * batch["image"].float().mean()

    def on_train_batch_end(self, *_):
        if len(self.steps) == self.stop_after:
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/stopped.ckpt")
            raise KeyboardInterrupt

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_resumes_in_the_middle_of_an_epoch_with_the_batches_that_are_left(numbered, tmp_path):
    class Data(ImageTextData):
        def load(self, split):
            return numbered

    def fit(module, checkpoint=None):
        trainer = lightning.Trainer(
            max_epochs=3, accelerator="cpu", default_root_dir=tmp_path, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, datamodule=Data(8, batch_size=20, flip=0.5), ckpt_path=checkpoint)
        return module.steps

    whole = fit(Seen())
    assert len(whole) == 15
    with pytest.raises(SystemExit):
        fit(stopped := Seen(stop_after=7))
    rest = fit(Seen(), checkpoint=tmp_path / "stopped.ckpt")
    assert stopped.steps + rest == whole


def test_what_is_on_a_device_is_put_together_there(numbered):
    """On a device that holds no values nothing but shapes can be asked, and nothing mixed with the host's."""
    here, there = (
        list(BatchLoader(data, 10, **AUGMENTED)) for data in (numbered, numbered.to(torch.device("meta")))
    )
    assert [{name: x.shape for name, x in batch.items()} for batch in here] == [
        {name: x.shape for name, x in batch.items()} for batch in there
    ]
    assert {x.device.type for batch in there for x in batch.values()} == {"meta"}


@pytest.mark.parametrize(
    ("setting", "device", "moves"),
    [("auto", "cpu", False), ("gpu", "cpu", False), ("cpu", "meta", False), ("gpu", "meta", True)],
)
def test_a_split_goes_to_the_device_that_trains_where_it_is_asked_to(setting, device, moves):
    data = Synthetic(size=32, image_size=8, batch_size=8, device=setting)
    data.trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)),
        global_rank=0, world_size=1, accumulate_grad_batches=1,
    )  # fmt: skip
    assert data.train_dataloader().data.images.is_meta == moves
