"""Pretrained backbones, and weights loaded into a model with every tensor checked."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from qnet.models.timm_backbone import PREFIX, TimmBackbone, own_weights, rename_by_order
from qnet.util.base.errors import InputError
from qnet.util.base.files import replacing
from qnet.util.base.inputs import expect_file

# torchvision's names of the weights: enumeration and member.
PRETRAINED = {
    ("resnet101", "imagenet"): ("ResNet101_Weights", "IMAGENET1K_V1"),
    ("resnet101", "coco"): ("DeepLabV3_ResNet101_Weights", "COCO_WITH_VOC_LABELS_V1"),
    ("resnet50", "imagenet"): ("ResNet50_Weights", "IMAGENET1K_V1"),
    ("resnet50", "coco"): ("DeepLabV3_ResNet50_Weights", "COCO_WITH_VOC_LABELS_V1"),
}

PACKAGE = "package:"     # before the name of a package that carries weights


def pretrained_url(encoder_name: str, source: str) -> str:
    """Return the address of torchvision's weights for an entry of PRETRAINED."""
    import torchvision  # here, as it takes a second and a half that other runs need not wait for

    enumeration, member = PRETRAINED[encoder_name, source]
    return torchvision.models.get_weight(f"{enumeration}.{member}").url


def read_weights(path: Path | str) -> dict:
    """Read a file of `torch.save`, onto the CPU. Only tensors and plain values are read.

    Raises:
        InputError: the file is missing, damaged, does not hold a dictionary, or would run code when loaded.
    """
    path = expect_file(path)
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:      # a damaged pickle can raise any error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read as weights ({reason})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def _check_archive(path: Path) -> None:
    """Raise ValueError for a damaged zip, and for one whose parts are larger than itself, as in a zip bomb.

    torch.save does not compress. It writes checksums, but torch.load does not compare them. Files older than 2020 are no zip
    and have no checksums.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":      # torch's own test for a zip
            return
    with zipfile.ZipFile(path) as archive:
        n_bytes = sum(part.file_size for part in archive.infolist())
        if n_bytes > path.stat().st_size:
            raise ValueError(f"its parts claim {n_bytes} bytes, the file has {path.stat().st_size}")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} does not have its check sum: the file is damaged")


def load_pretrained(backbone: nn.Module, encoder_name: str, source: str, weights_dir: Path | str) -> str:
    """Load pretrained weights into a backbone, and return a sentence with the number of tensors that were loaded.

    Args:
        source: "none", "imagenet" or "coco" (torchvision's files, downloaded into `weights_dir` if missing there; for an
            encoder of timm, "imagenet" is what timm has for it, in its own cache), the path of a file, or "package:" and the
            name of an installed package that carries one. Tensors may be named as in torchvision's classifiers (`layer1.…`)
            or its DeepLabV3 (`backbone.layer1.…`), or as in timm. A file of a training by DataParallel, with `state_dict` and
            `module.layer1.…`, works too.
    Raises:
        InputError: there are no such weights for this encoder, or no tensor fits by name and shape.
    """
    if source == "none":
        return "encoder: random weights (pretrained: none)"
    if isinstance(backbone, TimmBackbone):
        backbone = backbone.net
    path, content = _pretrained(encoder_name, source, Path(weights_dir))
    prefix, state = ("module.", content["state_dict"]) if "state_dict" in content else ("backbone.", content)
    named = state.items() if isinstance(state, Mapping) else ()
    given = {name.removeprefix(prefix): value for name, value in named if isinstance(value, Tensor)}
    wanted = backbone.state_dict()
    fitting = {name: value for name, value in given.items() if name in wanted and value.shape == wanted[name].shape}
    _expect_finite(fitting, path)
    if not fitting:
        raise InputError(
            f"pretrained: of the {len(given)} tensors of {path}, none fits encoder {encoder_name!r} by name and shape")
    backbone.load_state_dict(fitting, strict=False)
    missing = sorted({name.partition(".")[0] for name in set(wanted) - set(fitting)
                      if not name.endswith("num_batches_tracked")})      # a count that files before 2018 lack, and nothing reads
    left = f"; left as initialised: {', '.join(missing)}" if missing else ""
    return f"encoder: {len(fitting)} of {len(wanted)} backbone tensors loaded from {path}{left}"


def _pretrained(encoder_name: str, source: str, weights_dir: Path) -> tuple[Path | str, Mapping[str, object]]:
    """Return where the weights come from, and the weights under the names of the encoder."""
    of_timm = encoder_name.startswith(PREFIX)
    if of_timm and source == "imagenet":
        try:
            return "timm", own_weights(encoder_name)
        except (RuntimeError, OSError) as error:
            raise InputError(f"pretrained: timm's weights of {encoder_name} cannot be had ({' '.join(str(error).split())}); "
                             "give the path of a file, or say pretrained=none") from None
    path = _pretrained_file(encoder_name, source, weights_dir)
    content = read_weights(path)
    return path, rename_by_order(content, encoder_name) if of_timm else content


def _pretrained_file(encoder_name: str, source: str, weights_dir: Path) -> Path:
    if source.startswith(PACKAGE):
        return _file_of_package(source.removeprefix(PACKAGE))
    if source not in ("imagenet", "coco"):
        return Path(source)
    if (encoder_name, source) not in PRETRAINED:
        others = "'imagenet', 'none' or" if encoder_name.startswith(PREFIX) else "'none' or"
        raise InputError(f"pretrained: got {source!r}, allowed for encoder {encoder_name!r}: {others} the path of a file")
    url = pretrained_url(encoder_name, source)
    path = weights_dir / url.rpartition("/")[2]
    if not path.is_file():
        try:
            with replacing(path) as partial:
                torch.hub.download_url_to_file(url, str(partial), hash_prefix=path.stem.rpartition("-")[2])
        except (URLError, OSError, RuntimeError) as error:
            raise InputError(f"pretrained: {path} is not there and {url} could not be downloaded ({error}); "
                             "put the file there by hand, or say pretrained=none") from None
    return path


def _file_of_package(name: str) -> Path:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    found = [path for folder in (spec and spec.submodule_search_locations) or () for path in Path(folder).rglob("*.pth")]
    if len(found) != 1:
        raise InputError(f"pretrained: got '{PACKAGE}{name}', allowed: an installed package that carries one .pth file"
                         + (f", found {len(found)}" if spec else ", found no such package"))
    return found[0]


def load_state(model: nn.Module, state: Mapping[str, Tensor], origin: Path | str) -> None:
    """Load a state_dict whose names and shapes all agree with the model's.

    Args:
        origin: the file, for messages.
    Raises:
        InputError: names or shapes disagree, or values are not finite. The message names the first three tensors of each kind.
    """
    expect_state_fits(model, state, origin)
    _expect_finite(state, origin)
    model.load_state_dict(state)


def expect_state_fits(model: nn.Module, state: Mapping[str, Tensor], origin: Path | str, hint: str = "") -> None:
    """Check that names and shapes of a state_dict all agree with a model's, which may be without memory.

    Args:
        origin: the file, for messages.
        hint: added to the message about tensors that do not fit.
    Raises:
        InputError: they disagree. The message names the first three tensors of each kind.
    """
    wanted = model.state_dict()
    problems = {
        "missing": [name for name in wanted if name not in state],
        "unknown": [name for name in state if name not in wanted],
        "of another shape": [f"{name} {_shape_in_words(state[name])} for {tuple(wanted[name].shape)}" for name in wanted
                             if name in state and getattr(state[name], "shape", None) != wanted[name].shape],
    }
    described = [f"{len(names)} {kind} ({', '.join(map(str, names[:3]))}{', …' if len(names) > 3 else ''})"
                 for kind, names in problems.items() if names]
    if described:
        raise InputError(f"{origin}: weights of another architecture: tensors {'; '.join(described)}{hint}")


def _shape_in_words(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"({type(value).__name__})"


def _expect_finite(state: Mapping[str, Tensor], origin: Path | str) -> None:
    for name, tensor in state.items():
        real = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_complex() or tensor.is_quantized)
        if not real or not torch.isfinite(tensor).all():
            raise InputError(f"{origin}: tensor {name} holds NaN, infinity or no real numbers; such weights cannot be used")
