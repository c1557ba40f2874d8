"""The settings of the methods as configs/base.json5 has them."""

from qnet.models.settings import GMRDSettings, GuidedSettings, RegistrationSettings, RPTSettings
from qnet.util.options.config import base_config
from qnet.util.options.sections import section

_BASE = base_config()
REGISTRATION = section(RegistrationSettings, _BASE["registration"])
GUIDED = section(GuidedSettings, _BASE["guided"])
RPT_2024 = section(RPTSettings, _BASE["rpt"])
GMRD_PUBLISHED = section(GMRDSettings, _BASE["gmrd"])
