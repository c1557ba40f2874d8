"""Loading networks from elsewhere: files, modules, UniverSeg's package, and what is refused."""

import sys

import pytest
import torch

from qnet.util.base.errors import InputError
from qnet.util.training.outside import load_outside, load_universeg

UNIVERSEG = '''
import torch

class UniverSeg(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(1))
    def forward(self, target_image, support_images, support_labels):
        return self.scale * (2 * support_labels.mean(1) - 1)

def universeg(version="v1", pretrained=False):
    if pretrained:
        raise OSError("no network")
    return UniverSeg()
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package `universeg`, with its real interface."""
    (tmp_path / "universeg.py").write_text(UNIVERSEG, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "universeg", raising=False)
    yield tmp_path
    sys.modules.pop("universeg", None)


def test_a_function_of_a_file_or_a_module_gets_the_weights(tmp_path, monkeypatch):
    (tmp_path / "my_net.py").write_text("def make(weights):\n    return lambda images, masks, query: weights\n", encoding="utf-8")
    assert load_outside(f"{tmp_path}/my_net.py:make", "w.pt").network(1, 2, 3) == "w.pt"
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_outside("my_net:make", None).network(1, 2, 3) is None


@pytest.mark.parametrize(("network", "code", "message"), [
    (None, "", "outside.network: got None, allowed: a Python file or"),
    ("my_net.py", "", "outside.network: got 'my_net.py', allowed: a Python file or"),
    ("{folder}/none.py:make", "", "none.py: "),
    ("no_such_module_at_all:make", "", "no_such_module_at_all cannot be imported .ModuleNotFoundError"),
    ("{folder}/net.py:make", "1 / 0", "net.py cannot be imported .ZeroDivisionError: division by zero"),
    ("{folder}/net.py:make", "def other(weights): ...", "net.py has no function or class 'make'"),
    ("{folder}/net.py:make", "def make(weights): raise KeyError('a\\nb')",
     "make of .*net.py, called with outside.weights 'w', fails"),
    ("{folder}/net.py:make", "def make(weights): return 3", "make of .*net.py returned a int, allowed: what can be called"),
])
def test_what_cannot_be_loaded_is_one_line(network, code, message, tmp_path):
    (tmp_path / "net.py").write_text(code, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        load_outside(network and network.format(folder=tmp_path), "w")
    assert "\n" not in str(caught.value)


def test_universeg_takes_the_weights_of_a_file(package):
    torch.save({"scale": torch.tensor([8.0])}, package / "weights.pt")
    model = load_universeg(str(package / "weights.pt"))
    assert model.network.network.scale.item() == 8


def test_universeg_without_its_weights_or_package(package, monkeypatch):
    with pytest.raises(InputError, match=r"outside.weights: got null, and UniverSeg's own cannot be had .OSError: no network"):
        load_universeg(None)
    torch.save({"other": torch.zeros(1)}, package / "weights.pt")
    with pytest.raises(InputError, match=r"weights.pt: weights of another architecture"):
        load_universeg(str(package / "weights.pt"))
    monkeypatch.setitem(sys.modules, "universeg", None)      # what Python does to say that there is none
    with pytest.raises(InputError, match="model: got 'universeg', whose package cannot be imported"):
        load_universeg(None)
