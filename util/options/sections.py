"""The options: each is declared once, in a frozen dataclass that the entry points make and functions take.

`name: Annotated[type, rule, *roles]` declares the option of that name; `configs/base.json5` explains it and has its default, and
is checked against these. A field without `Annotated` is an option that another section declares, or is made of several. Only this
module turns a config into sections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from qnet.dataloaders.datasets import Case, DatasetSpec, Grid, find_cases
from qnet.dataloaders.outlines.formats import FORMATS
from qnet.models.settings import GMRDSettings, GuidedSettings, RegistrationSettings, RPTSettings, StudentSettings, UNetSettings
from qnet.util.base.classes import MAX_TRAINED
from qnet.util.base.rules import (
    Rule,
    boolean,
    declared,
    device_name,
    either,
    encoder,
    list_of,
    number,
    one_of,
    optional,
    path_weights,
    rules_of,
    text,
    whole,
    windows,
)
from qnet.util.options.names import CLASS_PRIORS, ENCODERS, MODELS, VOLUME_MODELS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = Mapping[str, Any]      # checked by `qnet.util.options.config`: plain dictionaries, lists and values
T = TypeVar("T", bound="DataclassInstance")


class Role(Enum):
    """Why an option is treated specially. An option without a role makes another training if its value differs."""

    SHAPES = "it shapes the network or what the network computes: a snapshot is evaluated with the value that it was trained with"
    TRAINED_WITH = "predict takes it from the snapshot: all of SHAPES, and the data set with its grid and labels"
    TASK = "a task file stores it, besides the model and, for a network, all of TRAINED_WITH"
    RESUME = "it may differ when a training is resumed"
    RESUME_NAMED = "it may also differ when the user names the snapshot to resume"
    ELSEWHERE = "it says where predict reads and writes, not what it computes; files are compared by content"


SHAPES, TRAINED_WITH, TASK, RESUME, RESUME_NAMED, ELSEWHERE = Role      # as the fields below name them


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
    dataset: Annotated[str, text(), TRAINED_WITH]
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
    device: Annotated[str, device_name(), RESUME, ELSEWHERE]
    deterministic: Annotated[bool, boolean()]
    precision: Annotated[str, one_of("auto", "float32", "bf16")]
    resume: Annotated[str, text(), RESUME, ELSEWHERE]
    n_steps: int
    reload_model_path: Annotated[str | None, optional(text()), RESUME_NAMED, ELSEWHERE]

    @classmethod
    def of(cls, config: Config) -> RunOptions:
        """Take them from a checked config."""
        return section(cls, config, place=RunPlace.of(config))


@dataclass(frozen=True)
class DataOptions:
    """The data set, its folder, and the test fold."""

    spec: DatasetSpec
    data_dir: Path
    eval_fold: Annotated[int, whole(0)]
    n_sv: Annotated[int, whole(1)]
    n_sp: Annotated[int, whole(1)]

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
class OutsideOptions:
    """Where a network from elsewhere is: the section `outside`."""

    network: Annotated[str | None, optional(text())]
    weights: Annotated[str | None, optional(text())]

    @property
    def files(self) -> list[Path]:
        """The files that are named here, so that a run tells when they changed."""
        return [Path(path) for path in ((self.network or "").rpartition(":")[0], self.weights) if path]


@dataclass(frozen=True)
class ModelOptions:
    """The network, what it computes, and its losses."""

    model: Annotated[str, one_of(*MODELS), SHAPES, TRAINED_WITH]
    encoder: Annotated[str, encoder(*ENCODERS), SHAPES, TRAINED_WITH]
    pretrained: Annotated[str, text(), RESUME_NAMED]
    coordinates: Annotated[bool, boolean(), SHAPES, TRAINED_WITH]
    encoder_paths: Annotated[str, one_of("both", "fine", "coarse"), SHAPES, TRAINED_WITH]
    alpha: Annotated[tuple[float, float], path_weights(), SHAPES, TRAINED_WITH]
    n_iters: Annotated[int, whole(0), TASK, RESUME]
    threshold: Annotated[str, one_of("query", "learned", "support"), SHAPES, TRAINED_WITH]
    t_loss_scaler: Annotated[float, number(0)]
    prototype_windows: Annotated[tuple[int, int], windows(), SHAPES, TRAINED_WITH]
    n_prototypes: Annotated[int, whole(1, 1000), SHAPES, TRAINED_WITH]
    class_prior: Annotated[str, one_of(*CLASS_PRIORS), TASK, RESUME]
    rpt: Annotated[RPTSettings, rules_of(RPTSettings), SHAPES, TRAINED_WITH]
    gmrd: Annotated[GMRDSettings, rules_of(GMRDSettings), SHAPES, TRAINED_WITH]
    outside: Annotated[OutsideOptions, rules_of(OutsideOptions), RESUME]
    registration: Annotated[RegistrationSettings, rules_of(RegistrationSettings), TASK, RESUME]
    guided: Annotated[GuidedSettings, rules_of(GuidedSettings), TASK, RESUME]
    student: Annotated[StudentSettings, rules_of(StudentSettings), TASK, RESUME]
    unet: Annotated[UNetSettings, rules_of(UNetSettings), TASK, RESUME]
    spatial_prior: Annotated[str, one_of("none", "registration"), TASK, RESUME]
    precision: str
    bg_wt: Annotated[float, number(0, above=True)]
    ignore_label: Annotated[int, whole(2, 255)]
    seed: Annotated[int, whole(0, 2**32 - 1)]
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
                       rpt=section(RPTSettings, config["rpt"]), gmrd=section(GMRDSettings, config["gmrd"]),
                       outside=section(OutsideOptions, config["outside"]),
                       registration=section(RegistrationSettings, config["registration"]),
                       guided=section(GuidedSettings, config["guided"]),
                       student=section(StudentSettings, config["student"]), unet=section(UNetSettings, config["unet"]))


@dataclass(frozen=True)
class StackOptions:
    """How stacks of slices are cut from volumes, for methods in 3D: the section `stack`."""

    n_slices: Annotated[int, whole(1)]
    size_px: Annotated[int, whole(1)]


@dataclass(frozen=True)
class EpisodeOptions:
    """How training episodes are drawn."""

    exclude_label: Annotated[tuple[int, ...] | None, optional(list_of(whole(1, MAX_TRAINED)))]
    exclude_rule: Annotated[str, one_of("any", "all")]
    use_gt: Annotated[bool, boolean()]
    test_label: tuple[int, ...]
    pseudo_labels: Annotated[str, one_of("supervoxels", "superpixels")]
    min_size: Annotated[int, whole(0)]
    n_shot: Annotated[int, whole(1)]
    stack: Annotated[StackOptions, rules_of(StackOptions)]
    seed: int

    @property
    def same_slice(self) -> bool:
        """Whether support and query are the same slice: a superpixel lies in one slice only."""
        return self.pseudo_labels == "superpixels" and not self.use_gt

    @classmethod
    def of(cls, config: Config) -> EpisodeOptions:
        """Take them from a checked config."""
        return section(cls, config, stack=section(StackOptions, config["stack"]))


@dataclass(frozen=True)
class OptimizerOptions:
    """The options of SGD: the section `optim`."""

    lr: Annotated[float, number(0, above=True)]
    momentum: Annotated[float, number(0, 1)]
    weight_decay: Annotated[float, number(0)]


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained."""

    n_steps: Annotated[int, whole(1, 10**8), RESUME]
    batch_size: Annotated[int, whole(1)]
    num_workers: Annotated[int, whole(0, 1024), RESUME]
    optim: Annotated[OptimizerOptions, rules_of(OptimizerOptions)]
    clip_gradient: Annotated[float | None, optional(number(0, above=True))]
    lr_step_gamma: Annotated[float, number(0, 1, above=True)]
    lr_step_every: Annotated[int, whole(1)]
    sync_batchnorm: Annotated[bool, boolean()]
    print_interval: Annotated[int, whole(1), RESUME]
    save_snapshot_every: Annotated[int, whole(1), RESUME]
    keep_snapshots: Annotated[int | str, either(one_of("all"), whole(1)), RESUME]
    max_refused_steps: Annotated[int, whole(0), RESUME]

    @classmethod
    def of(cls, config: Config) -> TrainOptions:
        """Take them from a checked config."""
        return section(cls, config, optim=section(OptimizerOptions, config["optim"]))


@dataclass(frozen=True)
class WholeVolumeOptions:
    """How a whole volume is segmented without its labels, and how its label map is cleaned."""

    slice_margin: Annotated[int, whole(0), TASK, RESUME]
    location_mm: Annotated[float, number(0), TASK, RESUME]
    smooth_z: Annotated[float, number(0, 1000), TASK, RESUME]
    largest_component: Annotated[bool, boolean(), TASK, RESUME]
    eval_batch_size: int


@dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated, from which supports, and how."""

    test_label: Annotated[tuple[int, ...], list_of(whole(1, MAX_TRAINED))]
    protocol: Annotated[str, one_of("published", "corrected", "ep2"), RESUME]
    supp_idx: Annotated[int | str | tuple[int, ...], either(one_of("all"), either(whole(0), list_of(whole(0)))), RESUME]
    n_part: Annotated[int, one_of(1, 3), RESUME]
    eval_batch_size: Annotated[int, whole(1), RESUME]
    whole_volume: Annotated[bool, boolean(), RESUME]
    surface_tolerance_mm: Annotated[float, number(0, above=True), RESUME]

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
    augment: Annotated[bool, boolean(), RESUME]
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

    support_image: Annotated[tuple[str, ...] | str | None, optional(either(text(), list_of(text()))), RESUME, ELSEWHERE]
    support_label: Annotated[tuple[str, ...] | str | None, optional(either(text(), list_of(text()))), RESUME, ELSEWHERE]
    fill: Annotated[bool, boolean(), RESUME]
    channels: Annotated[tuple[str, ...] | None, optional(list_of(text())), RESUME, ELSEWHERE]
    task: Annotated[str | None, optional(text()), RESUME, ELSEWHERE]
    query: Annotated[str | None, optional(text()), RESUME, ELSEWHERE]
    output: Annotated[str | None, optional(text()), RESUME, ELSEWHERE]
    overwrite: Annotated[bool, boolean(), RESUME, ELSEWHERE]
    format: Annotated[tuple[str, ...] | str, either(one_of(*FORMATS), list_of(one_of(*FORMATS))), RESUME, ELSEWHERE]
    save_probs: Annotated[bool, boolean(), RESUME]
    resume: str
    reload_model_path: str | None


@dataclass(frozen=True)
class ReportOptions:
    """Which evaluation `report` shows."""

    run: Annotated[str | None, optional(text()), RESUME, ELSEWHERE]
    overwrite: bool


@dataclass(frozen=True)
class ComparedOptions:
    """What `qnet compare` reads of a finished evaluation."""

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
    """What the report shows of a finished evaluation."""

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
    """Return a section. Each field takes the option of its name, except those in `given` and those with a default."""
    values = {field.name: _frozen(config[field.name]) for field in fields(cls)
              if field.name not in given and field.default is MISSING}
    return cls(**values, **given)


def _frozen(value: Any) -> Any:
    """Turn lists into tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


class Option(NamedTuple):
    """An option at the top level of a config.

    Attributes:
        rule: what is allowed. A section has one rule per key. None: `qnet.util.options.config` checks the option by itself.
        roles: why the option is treated specially; empty for most.
    """

    rule: Rule | Mapping[str, Rule] | None
    roles: frozenset[Role]


DECLARING = (RunPlace, RunOptions, DataOptions, EpisodeOptions, ModelOptions, TrainOptions, EvaluationOptions, WholeVolumeOptions,
             PredictorOptions, PredictOptions, ReportOptions)
OPTIONS: dict[str, Option] = {
    **{name: Option(rule, frozenset(roles)) for section in DECLARING for name, (rule, *roles) in declared(section).items()},
    "path": Option(None, frozenset({RESUME_NAMED, ELSEWHERE})),
    "datasets": Option(None, frozenset({TRAINED_WITH, RESUME_NAMED})),
}
RULES = {key: option.rule for key, option in OPTIONS.items() if option.rule is not None}


def with_role(role: Role) -> tuple[str, ...]:
    """Return the keys of the options that have a role."""
    return tuple(key for key, option in OPTIONS.items() if role in option.roles)


def names_of(section: type[DataclassInstance]) -> list[str]:
    """Return the names of the options in a section."""
    return [field.name for field in fields(section)]
