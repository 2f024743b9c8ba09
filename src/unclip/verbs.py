"""The verbs of the command `unclip`: which module carries each out, and what its help says. Imports none of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """A verb: the module whose `main(arguments) -> int` carries it out, one line about it, its help."""

    module: str
    does: str
    help: str


VERBS = {
    "run": Verb(
        "unclip.runs.pipeline",
        "all stages of an experiment in order, then samples, metrics and a report",
        """unclip run experiment=NAME [results=DIR] [overrides]
unclip run -m experiment=NAME [overrides, some of them with several values]

Trains what is missing, reuses what is finished, then samples, evaluates and writes the report into results=DIR
(by default outputs/NAME/run-<signature>), unless that holds another request's. An override with a stage's prefix goes
to that stage, sample. and evaluate. included; one without goes to every stage that has the key. dry_run=true says what
would be done.

A sweep (-m) is one of whole runs, with all that `unclip train -m` has: each in a process of its own, n at a time,
skipped when finished, resumed, tried again with retry=true, recorded in outputs/sweeps. What several of them stand on
is trained once.

  unclip run experiment=demo
  unclip run experiment=demo seed=3 decoder.schedule=linear results=outputs/linear
  unclip run experiment=demo prior.trainer.max_steps=1000 sample.per_prompt=5
  unclip run -m experiment=demo decoder.schedule=linear,cosine decoder.seed=0,1,2 hydra.launcher.n_jobs=2""",
    ),
    "train": Verb(
        "unclip.runs.train",
        "one training run; -m makes it a Hydra multirun",
        """unclip train stage=clip|prior|decoder|upsampler|autoencoder|classifier [overrides]
unclip train experiment=NAME/STAGE [overrides]

A run's folder is named by its configuration: the same command finds the same run, skips it when it is finished and
goes on with it when it was interrupted. What a stage is trained on top of is trained first (clip=auto) or named
(clip=<signature or folder>, clip=random).

A sweep (-m) trains each combination in a process of its own, hydra.launcher.n_jobs=N at a time (by default one, or one
a GPU; hydra.launcher.jobs_per_gpu=N), and leaves a record, outputs/sweeps/NAME.json (sweep=NAME, else a hash of the
command). The same command again goes on: finished runs are skipped, failed ones named, and tried again with retry=true.
dry_run=true says what would be done.

On a cluster hydra/launcher=submitit_slurm makes a Slurm job of each, a task a device; hydra.launcher.partition and its
siblings say the rest. Ctrl-C then ends the waiting, not the jobs, and the same command waits for them again.

  unclip train stage=decoder schedule=linear objective=v seed=3
  unclip train experiment=demo/decoder trainer.max_steps=2000
  unclip train stage=decoder schedule=linear dry_run=true         what state it is in, how long it may take
  unclip train -m stage=decoder schedule=linear,cosine objective=eps,x0,v trainer.max_steps=20
  unclip train -m stage=decoder seed=0,1,2 hydra/launcher=submitit_slurm hydra.launcher.partition=gpu
  unclip train stage=prior --cfg job          print the configuration and stop
  unclip train --config-dir=my_conf stage=clip model=clip/mine""",
    ),
    "ablate": Verb(
        "unclip.runs.ablate",
        "a whole ablation of a paper: runs what is missing, then the report",
        """unclip ablate NAME [budget=smoke|small|full] [seeds=0,1,2] [n_jobs=N] [overrides of every cell]
unclip ablate --list

NAME (conf/ablation/NAME.yaml) says what is compared, by which metrics, and what the paper claims. Each cell is an
`unclip run` with each of the same seeds; what is finished is reused, and shared stages are trained once. The report
says for each claim whether our seeds bear it out. The same command again goes on; retry=true tries failed runs again,
dry_run=true says what would be done. --list shows all ablations and what is done of them.

  unclip ablate --list
  unclip ablate iddpm_schedule budget=smoke
  unclip ablate iddpm_schedule budget=small seeds=0,1,2,3,4 n_jobs=2
  unclip ablate iddpm_schedule budget=small decoder.trainer.max_steps=2000""",
    ),
    "sample": Verb(
        "unclip.runs.sample",
        "text -> pictures, with a trained experiment",
        """unclip sample run=FOLDER [prompts='["an image of a bag"]'] [overrides]

run is the results folder of `unclip run`, or a decoder's run; clip=, prior=, decoder= and upsampler= name runs one by
one; upsampler=none draws what a cascade's decoder draws. Writes one PNG each, grid.png and samples.jsonl into out=DIR
(by default <run>/samples-<hash of the request>).

  unclip sample run=outputs/demo prompts='["an image of a bag","an image of a dress"]' per_prompt=8
  unclip sample run=outputs/demo guidance=3 sampler=dpmpp_2m steps=15""",
    ),
    "evaluate": Verb(
        "unclip.runs.evaluate",
        "metrics of a trained experiment, of a sweep of its sampling settings, or of pictures",
        """unclip evaluate run=FOLDER [n=500] [metrics=NAME,NAME|all] [overrides]
unclip evaluate run=FOLDER guidance=1,2,4 steps=10,20,50
unclip evaluate images=PATH reference=PATH|fashion_mnist:train [n=N] [overrides]

Measures pictures against real images, each number beside what held-out real images get: Frechet distance, KID,
precision and recall, nearest training images, brightness; of a run also whether a classifier sees what was asked for,
the round trip image -> embedding -> image, the prior and the CLIP by themselves; of a cascade's upsamplers, beside
bicubic enlargement, and of an autoencoder what becomes of real images: also with run= one of these alone. fd_infinity
and nll (bits per dimension) are slow and only measured by name. PATH is a folder of images or an .npz; extractor= says
what judges them, by default a run's own judge.

A list of values is a sweep: sampler, guidance, steps, rerank and seed, every combination with the same noise. Typed
again it goes on with what is missing.

Writes metrics.json and evaluation.html into out=DIR (by default <run>/evaluation-<hash of the request>; a sweep into
sweep-<hash>).

  unclip evaluate run=outputs/demo
  unclip evaluate run=outputs/demo guidance=1,1.5,2,4 steps=10,20 sampler=ddim,dpmpp_2m
  unclip evaluate run=outputs/demo metrics=nll,fd_infinity n=2000
  unclip evaluate images=outputs/demo/samples reference=fashion_mnist:train""",
    ),
    "manipulate": Verb(
        "unclip.runs.manipulate",
        "variations, interpolations, text diffs and other changes of pictures",
        """unclip manipulate KIND run=FOLDER [images=test:3,17|PATH] [prompts='["..."]'] [overrides]

  variations     other pictures with the same embedding (eta=)
  reconstruct    picture -> latent by DDIM inversion -> the same picture
  interpolate    the way from each picture to the next
  text_diff      pictures turned by the difference of two captions (source= target= thetas=[.1,.3])
  pca            what the first principal components of an embedding know (components=[1,5,20])
  inpaint        a part drawn anew, after the caption (box=[top,bottom,left,right] as shares)
  outpaint       what lies around the picture (border=)
  negative       pictures of captions, kept away from another one (negative=)
  prior          the prior's samples of a caption

Pictures are test images (one of five classes, or those named by number), a folder of images or an .npz. Writes KIND.png
and KIND.json, with what a classifier sees in each picture and how near it is to the embedding it was to have, into
out=DIR (by default <run>/KIND-<hash of the request>).

  unclip manipulate variations run=outputs/demo
  unclip manipulate interpolate run=outputs/demo images=test:0,1,2
  unclip manipulate text_diff run=outputs/demo images=test:12 target="an image of an ankle boot"
  unclip manipulate prior run=outputs/demo prompts='["an image of a bag"]'""",
    ),
    "schedules": Verb(
        "unclip.runs.schedules",
        "noise schedules side by side, before training or after",
        """unclip schedules [compare=NAME,NAME|all] [run=FOLDER,FOLDER] [overrides]

Draws alpha and sigma, log-SNR and its density, real images at eight noise levels, what each weighting makes the loss
attend to, and the levels that samplers would visit, into out=DIR (schedules.html and PNGs; outputs/schedules by
default). With run=..., finished prior or decoder runs, also their measured error at each noise level.

  unclip schedules compare=cosine,linear,sigmoid
  unclip schedules compare=all weightings=uniform,p2,sigmoid objective=v
  unclip schedules run=outputs/demo/0123456789 out=outputs/loss-by-level""",
    ),
    "search": Verb(
        "unclip.runs.search",
        "the best values of some keys, by Optuna",
        """unclip search NAME [trials=N] [n_jobs=N] [storage=FILE|URL] [overrides of every trial]
unclip search --list

NAME (conf/search/NAME.yaml) says which keys are searched, within what, for which metric of `unclip train` or `unclip
run`. Each trial is such a command in a process of its own, n_jobs at a time. suggest= chooses who proposes (tpe, cmaes,
nsga2, random, grid), prune= who stops hopeless trials on the way (none, median, hyperband, halving).

trials is a target: the same command again completes it, retry=true also tries failed trials again. Several of the same
command at once, here or on other machines with the same outputs or database, share the work; a killed one's trials are
taken up again from their checkpoints. Trials are kept in outputs/searches/NAME.journal; storage= names another file or
the URL of a database. Overrides of every trial, or of space. and objectives, make it another search, NAME-<hash>.

Writes report.html and its pictures into outputs/searches/NAME at the end; report=true only that. dry_run=true says
what would be done.

  unclip search decoder_lr trials=40 n_jobs=2
  unclip search decoder_lr space.lr.high=0.03 prune=hyperband suggest=random trainer.max_steps=2000
  unclip search steps_vs_fd storage=sqlite:///searches.db
  unclip search prior_lr report=true""",
    ),
    "bench": Verb(
        "unclip.runs.bench",
        "speed and memory, beside what others use for the same",
        """unclip bench NAME [overrides]

  training     a decoder's training step; beside it the form that tutorials have, diffusers, denoising-diffusion-pytorch
               and dalle2-pytorch, with as many parameters on the same batches
  prior        a prior's, from cached embeddings; beside it with CLIP inside the step, and dalle2-pytorch's
  sampling     text to pictures; beside it the tutorials' loop of a thousand steps, and diffusers' loops. quality=true
               run=FOLDER: also in how few steps a trained run's pictures are as good as after a thousand; quality=only:
               nothing else
  data         batches from memory; beside it torch's DataLoader, and what loading is of a training step
  evaluation   the Frechet distance (full=true: of 2 x 50,000 samples of 2048 features); beside it torchmetrics'
  sweep        planning a sweep, and what each of its cells costs beside its training
  startup      help, a wrong request, the first training step, from the shell
  plan         on paper: time, memory, network and storage of all stages on so many GPUs and pairs, from nets counted
               without data and assumptions that are keys (scale=paper|ours); calibrate=[FILE] takes what was measured

Everything in turns in one run: medians with least and most over rounds, ratios of the same round, FLOP, memory, and
the share of what the machine reaches in a large matrix product between the rounds. Overrides of `unclip train` go to
what is trained. Libraries that are not installed are named with what installs them. Writes bench.json and bench.md
into out=DIR (outputs/bench/NAME).

  unclip bench training
  unclip bench training data.batch_size=64 peers=[diffusers] rounds=9
  unclip bench training experiment=flowers/unet data=synthetic data.channels=3
  unclip bench sampling quality=true run=outputs/demo
  unclip bench evaluation full=true
  unclip bench plan gpus=64 pairs=400e6""",
    ),
    "report": Verb(
        "unclip.runs.report",
        "sweeps, ablations and runs compared on one page, from local files",
        """unclip report PATH... [metric=NAME,NAME] [baseline=CELL] [out=DIR] [format=html,md,csv,tex,png,svg]

PATH is a sweep's record (outputs/sweeps/NAME.json), the results folder of a run, a training run, or a folder of them;
several are compared. What differs only in the seed is one cell: means with 95% t-intervals over seeds, differences
from the baseline (the first cell unless said) paired by seed and corrected for their number, curves over steps and
wall time, samples from the same noise, settings that differ, cost; an ablation's claims with their verdicts. What
is missing, running or failed is shown as that.

metric= is a metric of metrics.json (fd, prdc.recall, nll) or of training (fd_n500, loss). Writes report.html,
report.md, table.csv, table.tex and plots/ into outputs/reports/NAME.

  unclip report outputs/sweeps/s0123abcd.json
  unclip report outputs/demo outputs/linear metric=fd,prompt_consistency baseline=linear
  unclip report outputs/demo/0123456789 outputs/demo/abcdef0123 format=html""",
    ),
    "runs": Verb(
        "unclip.runs.runs",
        "the runs there are: list, compare, clean up",
        """unclip runs [FOLDER] [where="..."] [sort=FIELD] [limit=N] [--json]
unclip runs compare RUN RUN
unclip runs clean [FOLDER] [where="..."] [older=30d] [yes=true]

Lists the runs under FOLDER (outputs, or paths.outputs=DIR), newest first; sort=-FIELD puts the largest first. where
compares fields (=, !=, <, <=, >, >=, ~ for contains) with and, or, not and brackets: a metric (fd_n500), a column
(state, stage, seed, age, seconds), or any key of the configuration (optim.lr, or lr where only one key ends so). No
comparison holds of a run without the field.

compare shows the keys in which two runs' configurations differ; a run is its signature, the beginning of it, or its
folder. clean lists what would go, and removes it with yes=true: without where only runs that did not finish; never one
being trained, one whose files cannot be read, or one that another run or a results folder under the outputs names. It
also finishes removals that were cut off.

  unclip runs
  unclip runs where="stage=decoder and fd_n500<20" sort=fd_n500 limit=10
  unclip runs where="schedule~cosine and not state=finished"
  unclip runs compare 0123456789 outputs/demo/abcdef0123
  unclip runs clean older=30d
  unclip runs clean where="state=finished and age>90d" yes=true""",
    ),
    "data": Verb(
        "unclip.runs.data",
        "fetch a data set, or say what is in it",
        """unclip data fetch|info NAME [overrides]

fetch gets and verifies the files of a data set. info also says what is in it: licence, splits, captions (how many, how
long in tokens, how many are truncated), and writes sixteen pictures with their captions to outputs/data/NAME.png.

  unclip data fetch emoji
  unclip data info fashion_mnist paths.data=/data
  unclip data info emoji tokenizer=bpe
  unclip data info image_folder data.path=my_pictures data.image_size=128
  unclip data info huggingface data.path=my_set data.image=image data.caption=text""",
    ),
    "completion": Verb(
        "unclip.completion",
        "a script with which the shell completes verbs, groups, options, keys",
        """unclip completion bash|zsh|fish

Prints a script for the shell. Put the line of yours where it starts: ~/.bashrc, ~/.zshrc, ~/.config/fish/config.fish.

  source <(unclip completion bash)
  source <(unclip completion zsh)
  unclip completion fish | source""",
    ),
}


STATUSES = "0 done, 1 a run failed, 2 a wrong request, 130 interrupted"


def usage() -> str:
    """All verbs, a line each."""
    lines = ["unclip: text-to-image diffusion by unCLIP - train it, sweep it, compare it", ""]
    lines += ["usage: unclip VERB [overrides]          unclip VERB --help", ""]
    lines += [f"  {name:10} {verb.does}" for name, verb in VERBS.items()]
    return "\n".join([*lines, "", f"exit statuses: {STATUSES}"])
