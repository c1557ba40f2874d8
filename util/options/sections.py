"""Sections of the options: frozen dataclasses that the entry points make once and functions take.

A field has the name of its option, and `configs/base.json5` explains it. Only this module turns a config into sections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qnet.dataloaders.datasets import Case, DatasetSpec, Grid, find_cases
from qnet.util.options.table import MODELS, VOLUME_MODELS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = Mapping[str, Any]      # checked by `qnet.util.options.config`: plain dictionaries, lists and values
T = TypeVar("T", bound="DataclassInstance")


def dataset_spec(name: str, entry: Config) -> DatasetSpec:
    """Return the facts of a data set from its checked entry in `datasets`. The entry's keys are text, as in JSON5."""
    grid = entry.get("grid")
    return DatasetSpec(
        name, entry["image"], entry["label"], entry["supervoxels"],
        labels={int(value): label for value, label in entry["labels"].items()},
        file_values={int(stored): label for stored, label in entry["file_values"].items()},
        n_folds=entry["n_folds"], grid=section(Grid, grid) if grid else None)


@dataclass(frozen=True)
class RunPlace:
    """What the folder of a run is named after."""

    log_dir: Path
    model: str
    dataset: str
    eval_fold: int

    @classmethod
    def of(cls, config: Config) -> RunPlace:
        """Take it from a checked config."""
        return section(cls, config, log_dir=Path(config["path"]["log_dir"]))

    def folders(self, mode: str) -> Path:
        """Return the folder of the numbered run folders. `mode` is "train" or "test"."""
        return self.log_dir / f"{MODELS[self.model]}_{mode}_{self.dataset}_cv{self.eval_fold}"


@dataclass(frozen=True)
class RunOptions:
    """Where a run is, what it runs on, and what it goes on from."""

    place: RunPlace
    device: str
    deterministic: bool
    precision: str
    resume: str
    n_steps: int
    reload_model_path: str | None

    @classmethod
    def of(cls, config: Config) -> RunOptions:
        """Take them from a checked config."""
        return section(cls, config, place=RunPlace.of(config))


@dataclass(frozen=True)
class DataOptions:
    """The data set, its folder, and the test fold."""

    spec: DatasetSpec
    data_dir: Path
    eval_fold: int
    n_sv: int
    n_sp: int

    @classmethod
    def of(cls, config: Config) -> DataOptions:
        """Take them from a checked config."""
        name = config["dataset"]
        return cls(dataset_spec(name, config["datasets"][name]), Path(config["path"][name]["data_dir"]),
                   config["eval_fold"], config["n_sv"], config["n_sp"])

    def cases(self) -> list[Case]:
        """Return the cases of the data set, sorted.

        Raises:
            InputError: the folder or a file is missing.
        """
        return find_cases(self.spec, self.data_dir, self.n_sv, self.n_sp)


@dataclass(frozen=True)
class RegistrationOptions:
    """How a support is registered to a query: the section `registration`."""

    affine: bool
    zoom: bool
    finest: float
    mind_radius: int
    mind_dilation: int
    intensity_weight: float
    smoothness: float
    n_steps: int
    stones: int
    agreement_power: float


@dataclass(frozen=True)
class GuidedOptions:
    """How the query's own intensities refine a registered label map: the section `guided`."""

    blur: float
    sure: float
    clear: float
    near: float
    clip: float
    prior_weight: float
    bias: float
    filter: float
    filter_eps: float


@dataclass(frozen=True)
class RPTOptions:
    """Which state of RPT: the section `rpt`."""

    form: str
    n_regions: int
    corner: bool


@dataclass(frozen=True)
class GMRDOptions:
    """Which state or variant of GMRD: the section `gmrd`."""

    n_background: int
    n_foreground: int
    mix_px: int
    relu: bool
    edge: str
    extra_weight: float


@dataclass(frozen=True)
class OutsideOptions:
    """Where a network from elsewhere is: the section `outside`."""

    network: str | None
    weights: str | None

    @property
    def files(self) -> list[Path]:
        """The files that are named here, so that a run tells when they changed."""
        return [Path(path) for path in ((self.network or "").rpartition(":")[0], self.weights) if path]


@dataclass(frozen=True)
class ModelOptions:
    """The network, what it computes, and its losses."""

    model: str
    encoder: str
    pretrained: str
    coordinates: bool
    encoder_paths: str
    alpha: tuple[float, float]
    n_iters: int
    threshold: str
    t_loss_scaler: float
    prototype_windows: tuple[int, int]
    n_prototypes: int
    class_prior: str
    rpt: RPTOptions
    gmrd: GMRDOptions
    outside: OutsideOptions
    registration: RegistrationOptions
    guided: GuidedOptions
    spatial_prior: str
    precision: str
    bg_wt: float
    ignore_label: int
    seed: int
    weights_dir: Path

    @property
    def n_stones(self) -> int:
        """How many stepping stones the method uses: none if it registers nothing."""
        registers = self.model in VOLUME_MODELS or self.spatial_prior == "registration"
        return self.registration.stones if registers else 0

    @classmethod
    def of(cls, config: Config) -> ModelOptions:
        """Take them from a checked config."""
        return section(cls, config, weights_dir=Path(config["path"]["weights_dir"]),
                       rpt=section(RPTOptions, config["rpt"]), gmrd=section(GMRDOptions, config["gmrd"]),
                       outside=section(OutsideOptions, config["outside"]),
                       registration=section(RegistrationOptions, config["registration"]),
                       guided=section(GuidedOptions, config["guided"]))


@dataclass(frozen=True)
class EpisodeOptions:
    """How training episodes are drawn."""

    exclude_label: tuple[int, ...] | None
    exclude_rule: str
    use_gt: bool
    test_label: tuple[int, ...]
    pseudo_labels: str
    min_size: int
    n_shot: int
    seed: int

    @property
    def same_slice(self) -> bool:
        """Whether support and query are the same slice: a superpixel lies in one slice only."""
        return self.pseudo_labels == "superpixels" and not self.use_gt


@dataclass(frozen=True)
class OptimizerOptions:
    """The options of SGD: the section `optim`."""

    lr: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained."""

    n_steps: int
    batch_size: int
    num_workers: int
    optim: OptimizerOptions
    clip_gradient: float | None
    lr_step_gamma: float
    lr_step_every: int
    sync_batchnorm: bool
    print_interval: int
    save_snapshot_every: int
    keep_snapshots: int | str
    max_refused_steps: int

    @classmethod
    def of(cls, config: Config) -> TrainOptions:
        """Take them from a checked config."""
        return section(cls, config, optim=section(OptimizerOptions, config["optim"]))


@dataclass(frozen=True)
class WholeVolumeOptions:
    """How a whole volume is segmented without its labels, and how its label map is cleaned."""

    slice_margin: int
    location_mm: float
    smooth_z: float
    largest_component: bool
    eval_batch_size: int


@dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated, from which supports, and how."""

    test_label: tuple[int, ...]
    protocol: str
    supp_idx: int | str | tuple[int, ...]
    n_part: int
    eval_batch_size: int
    whole_volume: bool
    surface_tolerance_mm: float

    @property
    def every_slice(self) -> bool:
        """Whether all slices of a query are segmented, also those without the class: EP2 of ADNet (Hansen et al. 2022)."""
        return self.protocol == "ep2"


@dataclass(frozen=True)
class PredictorOptions:
    """A model that segments scans of one's own."""

    spec: DatasetSpec
    model: ModelOptions
    whole: WholeVolumeOptions
    augment: bool
    device: str
    deterministic: bool
    reload_model_path: str | None

    @classmethod
    def of(cls, config: Config) -> PredictorOptions:
        """Take them from a checked config."""
        return section(cls, config, spec=DataOptions.of(config).spec, model=ModelOptions.of(config),
                       whole=section(WholeVolumeOptions, config))


@dataclass(frozen=True)
class PredictOptions:
    """The user's own scans: supports, queries, and what is written where."""

    support_image: tuple[str, ...] | str | None
    support_label: tuple[str, ...] | str | None
    fill: bool
    task: str | None
    query: str | None
    output: str | None
    overwrite: bool
    save_probs: bool
    resume: str
    reload_model_path: str | None


@dataclass(frozen=True)
class ComparedOptions:
    """What `scripts/compare.py` reads of a finished evaluation: the options with Role.COMPARED."""

    dataset: str
    eval_fold: int
    exclude_label: tuple[int, ...] | None
    exclude_rule: str
    model: str
    reload_model_path: str | None
    protocol: str
    n_part: int

    @property
    def setting(self) -> str:
        """The setting: "2" if slices with test classes were left out of training, else "1"."""
        return "1" if self.exclude_label is None else "2"


@dataclass(frozen=True)
class ShownOptions:
    """What the report shows of a finished evaluation: the options with Role.SHOWN."""

    dataset: str
    eval_fold: int
    n_sv: int
    encoder: str
    n_iters: int
    reload_model_path: str | None
    precision: str
    protocol: str
    n_part: int
    surface_tolerance_mm: float


def section(cls: type[T], config: Config, **given: Any) -> T:
    """Return a section. Each field takes the option of its name, unless `given` has it."""
    values = {field.name: _frozen(config[field.name]) for field in fields(cls) if field.name not in given}
    return cls(**values, **given)


def _frozen(value: Any) -> Any:
    """Turn lists into tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
