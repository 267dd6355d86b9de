"""BEM sites, the bank of skills stacked in them, and their artifacts."""

from bem.adapters.artifact import Skill, SkillCard, read_skill, save_skill
from bem.adapters.bank import LoadedSkill, SkillBank
from bem.adapters.site import BemSite, RowCodes, install_sites

__all__ = [
    "BemSite",
    "LoadedSkill",
    "RowCodes",
    "Skill",
    "SkillBank",
    "SkillCard",
    "install_sites",
    "read_skill",
    "save_skill",
]
