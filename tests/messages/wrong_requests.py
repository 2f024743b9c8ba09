"""Requests that cannot be carried out, as typed, and every line that is said of them: `...` stands for what depends on
the machine or is long. Refused before torch is imported, with status 2. A table; test_messages.py types them."""

from __future__ import annotations

DECODER = "train stage=decoder"
CLIP = "train stage=clip"
NO_FOLDER = "data.path = nowhere: there is no such folder; give data.path=FOLDER"

# What is typed -> all problems, in order, below the head `unclip VERB: N problems in this request:`.
PROBLEMS: dict[str, list[str]] = {
    # the form of a request
    f"{CLIP} --config-dir=nowhere": [
        "--config-dir = nowhere: there is no such folder; give one with YAML files of your own"
    ],
    f"{DECODER} seed=1,2 model.channels=[1": [
        "model.channels=[1: cannot be read; an override is key=value, with strings of spaces or commas quoted",
        "seed = 1,2: has several values; -m makes it a sweep; a list is written [a,b], a text with commas 'a,b'",
    ],
    "sample seed=1,2": [
        "seed = 1,2: has several values; a list is written [a,b], a text with commas 'a,b'",
    ],
    f"{DECODER} --cfg what": ["--cfg = what: prints what? possible: job, hydra, all"],
    f"{DECODER} --frobnicate": [
        "--frobnicate: is no option of it; possible: -m, --cfg job, --resolve, --config-dir=DIR"
    ],
    # groups and keys
    f"{DECODER} schedule=null +teacher.x=1 ~seed frob=1": [
        "schedule = null: is no choice; possible: cauchy, ...; ~schedule for none at all",
        "teacher.x = 1: there is no teacher here to add it to",
        "~seed: cannot be left out; seed=VALUE changes it",
        "frob = 1: no such key; possible: data, tokenizer, trainer, ...",
    ],
    f"{DECODER} +schedule=linear": [
        "stage=decoder +schedule=linear: is chosen already: without the + it chooses another"
    ],
    f"{DECODER} ~schedule=linear": [
        "stage=decoder ~schedule=linear: is not what is chosen: ~GROUP leaves out whatever is"
    ],
    f"{DECODER} schedule@mine=linear": [
        "stage=decoder schedule@mine=linear: names nothing that is there; + before it adds it"
    ],
    f"{DECODER} seed=${{nothing}}": ["seed: Interpolation key 'nothing' not found"],
    "train experiment=demo/sample": [
        "experiment=demo/sample: names no stage: give stage=NAME, or experiment=NAME/STAGE"
    ],
    "schedules spacings=[foo]": [
        "spacings = ['foo']: must be a list of (leading | trailing | linspace | karras | log_snr)",
    ],
    f"{DECODER} paths=null": ["paths = null: is two folders: paths.outputs=FOLDER, paths.data=FOLDER"],
    "sample paths=[a]": ["paths = [a]: is two folders: paths.outputs=FOLDER, paths.data=FOLDER"],
    f"{DECODER} model.attention=1": ["model.attention = 1: must be a list of int"],
    f"{DECODER} prior=autoregressive": ["prior = autoregressive: is a choice of stage=prior, this is stage decoder"],
    f"{DECODER} optim.betas=[0.9]": [
        "optim.betas = [0.9]: must satisfy len(betas) == 2 and all(0 <= b < 1 for b in betas)"
    ],
    f"{DECODER} model._target_=unclip.nets.Nothing": [
        "model._target_ = unclip.nets.Nothing: names nothing in this package"
    ],
    f"{CLIP} schedule=linear": ["schedule = linear: stage clip has no schedule: leave it out"],
    # rules between keys
    f"{DECODER} model.attention=[0] model.heads=3 model.groups=7 data.image_size=30": [
        "data.image_size = 30: the U-Net halves it 2 times after pixel-unshuffle 2: use a multiple of 8",
        "model.heads = 3: must divide the 32 channels of level 0; possible: 1, 2, 4, 8, 16, 32",
        "model.heads = 3: must divide the middle's 64 channels; possible: 1, 2, 4, 8, 16, 32, 64",
        "model.groups = 7: must divide model.channels = 32; possible: 1, 2, 4, 8, 16, 32",
    ],
    f"{DECODER} model.caption_layers=0 model.conditioning=caption_only": [
        "model.caption_layers = 0: model.conditioning = caption_only needs the caption: 1 or more"
    ],
    f"{DECODER} data.batch_size=10 trainer.accumulate_grad_batches=4 trainer.devices=0": [
        "data.batch_size = 10: is global and must be divisible by the 1 devices x 4 pieces",
        "trainer.devices = 0: must be 1 or more, or auto",
    ],
    f"{CLIP} trainer.accumulate_grad_batches=2": [
        "trainer.accumulate_grad_batches = 2: stage clip contrasts a whole batch, which a piece of it does not see: 1"
    ],
    "train stage=classifier trainer.accumulate_grad_batches=2": [
        "trainer.accumulate_grad_batches = 2: stage classifier normalises by a whole batch, "
        "which a piece of it does not see: 1"
    ],
    "train stage=autoencoder discriminator=patch trainer.accumulate_grad_batches=2": [
        "trainer.accumulate_grad_batches = 2: stage.adaptive_weight balances the gradients of a whole batch: 1, "
        "or stage.adaptive_weight=false"
    ],
    f"{DECODER} schedule=linear schedule.T=10 sampler=ddpm_analytic sampler.steps=4": [
        "schedule.T = 10: betas are rescaled by 1000/T and must stay below 1: T >= 21; cosine takes any T",
        "sampler = ddpm_analytic: has a variance estimated from training embeddings: for stage=prior; "
        "possible here: ddpm, ddpm_large",
    ],
    f"{DECODER} schedule=linear_zero_terminal objective=eps": [
        "objective = eps: cannot sample where the schedule ends at alpha = 0: objective v, x0, flow or edm, "
        "or sampler.spacing=log_snr"
    ],
    "train stage=prior sampler.thresholding=0.99": [
        "sampler.thresholding = 0.99: brings x0_hat within a range: clip_x0=1 for pixels; embeddings have none"
    ],
    f"{DECODER} schedule=flow objective=flow times=importance stage.loss=vlb": [
        "schedule = flow: stage.loss = vlb is a sum over the steps of a table: a schedule with T",
        "times = importance: remembers losses by entry and needs a table: a schedule with T",
    ],
    f"{DECODER} times=logit_normal stage.loss=vlb": [
        "times = logit_normal: stage.loss = vlb is the bound where entries come alike, or are weighted back: "
        "uniform, stratified, importance"
    ],
    f"{DECODER} trainer.strategy=foo": [
        "trainer.strategy = foo: no such strategy; possible: auto, ddp; or trainer=fsdp"
    ],
    f"{DECODER} trainer.accelerator=tpu": ["trainer.accelerator = tpu: possible: auto, cpu, gpu, mps"],
    f"{DECODER} autoencoder=auto sampler.thresholding=0.99 clip_x0=2": [
        "clip_x0 = 2: is a range of pixels, and with an autoencoder x0 is a latent: leave it out",
        "sampler.thresholding = 0.99: is of pixels, and with an autoencoder x0 is a latent: leave it out",
    ],
    "train stage=upsampler model.factor=3": ["model.factor = 3: must be 2 | 4"],
    f"{DECODER} model.conditioning=prior_sample prior=random": [
        "prior = random: has learned nothing to be sampled; possible: auto, or a run of stage=prior"
    ],
    # data and runs that are named
    f"{CLIP} data=image_folder data.path=nowhere": [NO_FOLDER],
    f"{CLIP} data=litdata data.path=nowhere": [NO_FOLDER],
    "run experiment=demo data=image_folder data.channels=1 data.path=nowhere": [NO_FOLDER],
    "data info litdata data.path=nowhere": [NO_FOLDER],
    f"{DECODER} clip=0123456789": [
        "clip = 0123456789: names no run under outputs; give the signature or folder of a finished one, "
        "auto, random or open_clip:MODEL:WEIGHTS"
    ],
    "sample": ["run: is not set; give a results folder, or decoder= and prior="],
    "sample run=results": ["run = results: names no decoder; give a results folder, or decoder= and prior="],
    "sample run=begun": [
        "run = begun: its decoder is not trained to the end; type the same `unclip run` again, then this"
    ],
    "sample run=results prompts=an image of a bag": [
        "image of a bag: cannot be read; an override is key=value, with strings of spaces or commas quoted",
        "prompts = an: must be a list of str | null, as in prompts='[\"an\"]'",
    ],
    "sample run=classifier": ["run = classifier: is a run of stage classifier; sampling starts from a decoder"],
    "sample run=decoder prior=none upsampler=classifier": [
        "upsampler: is a run of stage classifier, not of an upsampler"
    ],
    "sample run=decoder": [
        "prior: a decoder's run does not name its prior: give prior=<signature>, or the results folder of "
        "`unclip run`, or prior=none to do without one"
    ],
    "sample prompts=[]": ["prompts = []: must be a list of captions, none of them empty"],
    # evaluate, manipulate, schedules
    "evaluate images=a run=b": [
        "images = a: run = b is given too; give pictures (images and reference) or runs"
    ],
    "evaluate run=nowhere reference=b": [
        "reference = b: is for images=; runs are measured against their own data",
        "run = nowhere: names no run under outputs; give the signature or folder of a finished one",
    ],
    "evaluate images=nowhere reference=nowhere:test guidance=2": [
        "images = nowhere: there is no such folder or .npz file",
        "reference = nowhere:test: there is no such folder or .npz file; possible also: butterflies|...:train|...",
        "guidance: is a setting of sampling, and images= are there already: leave it out",
    ],
    "manipulate": ["give one KIND; possible: inpaint, ..."],
    "manipulate variations run=decoder prior=none prompts=['']": ["prompts = ['']: holds an empty caption"],
    "manipulate variations run=decoder prior=none images=test:3,x": [
        "images = test:3,x: must be numbers from 0, as in test:3,17"
    ],
    "manipulate variations run=decoder prior=none images=nowhere": [
        "images = nowhere: is not there; possible: test, test:3,17, a folder of images, or an .npz"
    ],
    "schedules compare=[] weightings=uniform": ["compare = []: names none; possible: cauchy, ..."],
    # whole runs and sweeps
    "run --frob": ["--frob: is no option of it; possible: -m, --config-dir=DIR"],
    "run experiment=dmo": [
        "experiment = dmo: no such experiment with stages to run; possible: cascade, demo, ..."
    ],
    # searches
    "search smoke space.lr=3": [
        "space.lr = 3: must have low and high (and step, or log: true), or choices; of: the key or keys it goes to"
    ],
    "search smoke space.lr={low:a}": [
        "space.lr = {'of': 'optim.lr', 'low': 'a', ...}: low, high and step must be numbers"
    ],
    "search smoke +space.lr.step=0": [
        "space.lr = {..., 'step': 0}: step must be above 0, and goes with log: false only"
    ],
    "search smoke +space.size={choices:3}": ["space.size = {'choices': 3}: choices must be a list"],
    "search smoke space.lr={choices:3}": ["space.lr.choices: no such key; + before the override adds it"],
    "search steps_vs_fd prune=median": [
        "prune: has no order to go by with two objectives: prune=none",
        "prune: looks at a training while it runs; verb run: prune=none",
    ],
    # the runs there are, data, completion
    "runs nowhere": ["paths.outputs = nowhere: there is no such folder; give one with runs"],
    "runs a b": ["2 folders are given, one is possible: a b"],
    "runs compare a": ["compare: takes two runs, by signature or folder; 1 given: a"],
    "runs clean older=now": ["older = now: is no time; possible: 30d, 12h, 90m, 2w"],
    "runs clean yes=maybe": ["yes = maybe: must be true or false"],
    "runs where=lr<": [
        "where = lr<: a value is missing at its end; an expression is FIELD =|!=|<|<=|>|>=|~ VALUE, "
        "with and, or, not and brackets"
    ],
    "data": ["what is to be done? possible: fetch NAME, info NAME"],
    "data fetsh emoji": [
        "fetsh: is nothing to do with data; nearest: fetch; possible: fetch NAME, info NAME"
    ],
    "data fetch": ["fetch: give one NAME; possible: butterflies, ..."],
    "completion": ["of which shell? possible: bash, zsh, fish"],
    "completion tcsh": ["tcsh: is no shell that it knows; possible: bash, zsh, fish"],
}  # fmt: skip

# What is typed -> the one line that is said, in full.
LINES = {
    "trian": "unclip: trian is no verb; nearest: train; possible: run, train, ...",
    "ablate --frob": "unclip ablate: --frob is no option of it; possible: adm_architecture, ..., --list",
    "ablate": "unclip ablate: give one NAME; possible: adm_architecture, ..., --list",
    "search --frob": "unclip search: --frob is no option of it; possible: decoder_lr, ..., --list",
    "bench": "unclip bench: give one NAME; possible: training, prior, ...",
    "bench trainig": "unclip bench: trainig is no benchmark; nearest: training; possible: training, prior, ...",
}
