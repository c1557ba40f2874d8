"""The settings of the methods as configs/base.json5 has them."""

from qnet.models.settings import GMRDSettings, GuidedSettings, RegistrationSettings, RPTSettings, Search, Searches
from qnet.util.options.config import base_config, load_config
from qnet.util.options.sections import section

_BASE = base_config()
STEPS = {"finest": 1.0, "n_steps": 20}
COARSE = {**load_config("guided")["registration"], **STEPS}     # a section, for whole programs
FEW_POINTS = Searches(affine=Search(6_000, cell=4, reach=4), wide=Search(20_000, cell=4, reach=2))
REGISTRATION = section(RegistrationSettings, _BASE["registration"])
EPISODES = {"n_shot": _BASE["n_shot"], "min_size": _BASE["min_size"], "same_slice": False}
TRAINING_VOLUMES = {key: _BASE[key] for key in ("exclude_label", "exclude_rule", "use_gt", "test_label", "pseudo_labels")}
GUIDED = section(GuidedSettings, _BASE["guided"])
RPT_2024 = section(RPTSettings, _BASE["rpt"])
GMRD_PUBLISHED = section(GMRDSettings, _BASE["gmrd"])
