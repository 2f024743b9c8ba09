"""What the project's own files must hold to be read again: names and types, checked by reading.py, which parses this
source without importing it. A field that may be left out has a default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Config:
    """What every config.yaml has; what else is in it stands in config/schema.py."""

    stage: dict[str, Any]
    data: dict[str, Any]
    model: dict[str, Any]
    paths: dict[str, str]


@dataclass
class Status:
    """status.json, so far as it is read again: of a training, and of a whole run (signature, elapsed, stage)."""

    state: str | None = None
    signature: str | None = None
    command: str | None = None
    started: str | None = None
    heartbeat: str | None = None
    finished: str | None = None
    seconds: float | None = None
    elapsed: float | None = None
    step: int | None = None
    stage: str | None = None
    loss: float | None = None
    parameters: int | None = None
    device: str | None = None
    metrics: dict[str, float] | None = None
    error: str | None = None
    attempt: str | None = None


@dataclass
class Record:
    """pipeline.json and request.json of a results folder."""

    stages: dict[str, dict[str, str]]
    experiment: str | None = None
    sample: dict[str, Any] | None = None
    evaluate: dict[str, Any] | None = None


@dataclass
class Sweep:
    """outputs/sweeps/NAME.json, the record of a sweep."""

    cells: list[dict[str, Any]]
    name: str | None = None
    command: str | None = None
    ablation: dict[str, Any] | None = None


@dataclass
class Cell:
    """One cell of a sweep."""

    values: dict[str, str] | None = None
    overrides: list[str] | None = None
    folder: str | None = None
    state: str | None = None
    error: str | None = None


@dataclass
class Ablation:
    """What a sweep's record says of its ablation."""

    title: str | None = None
    paper: str | None = None
    baseline: str | None = None
    metrics: list[str] | None = None
    claims: list[dict[str, Any]] | None = None
    published: list[dict[str, Any]] | None = None


@dataclass
class Budget:
    """What a budget changes of an ablation."""

    experiment: str | None = None
    seeds: list[int] | None = None
    overrides: list[str] | None = None
    cells: list[Any] | None = None


@dataclass
class Claim:
    """One of an ablation's claims: `a < b < c` of its cells' values of a metric."""

    metric: str
    claim: str
    note: str | None = None


@dataclass
class Published:
    """One of an ablation's tables of published numbers, by cell; grade: how they are known."""

    metric: str
    values: dict[Any, float | str]
    on: str | None = None
    grade: str | None = None
    note: str | None = None
