"""Learning from episodes: rows, advantages, token credit, replay, losses, the trainer."""

if __name__ != "agentkit.training":
    raise ImportError("import 'agentkit.training', not 'training'")

from typing import TYPE_CHECKING

from agentkit.lazy import lazy_names

if TYPE_CHECKING:
    from agentkit.training.advantages import ACE as ACE
    from agentkit.training.advantages import CANON as CANON
    from agentkit.training.advantages import GAE as GAE
    from agentkit.training.advantages import GRPO as GRPO
    from agentkit.training.advantages import MCGRPO as MCGRPO
    from agentkit.training.advantages import RLOO as RLOO
    from agentkit.training.advantages import UIS1 as UIS1
    from agentkit.training.advantages import Amplify as Amplify
    from agentkit.training.advantages import ArCHer as ArCHer
    from agentkit.training.advantages import DrGRPO as DrGRPO
    from agentkit.training.advantages import GiGPO as GiGPO
    from agentkit.training.advantages import Novelty as Novelty
    from agentkit.training.advantages import Outcomes as Outcomes
    from agentkit.training.advantages import ReinforcePlusPlus as ReinforcePlusPlus
    from agentkit.training.advantages import Spread as Spread
    from agentkit.training.advantages import TurnReturns as TurnReturns
    from agentkit.training.config import ImitationConfig as ImitationConfig
    from agentkit.training.config import TrainConfig as TrainConfig
    from agentkit.training.credit import D3S as D3S
    from agentkit.training.credit import ActFocus as ActFocus
    from agentkit.training.credit import Forks as Forks
    from agentkit.training.credit import Pivot as Pivot
    from agentkit.training.credit import Product as Product
    from agentkit.training.credit import Recalled as Recalled
    from agentkit.training.credit import Uniform as Uniform
    from agentkit.training.export import export_episodes as export_episodes
    from agentkit.training.pairs import preference_pairs as preference_pairs
    from agentkit.training.preferences import DPO as DPO
    from agentkit.training.preferences import KTO as KTO
    from agentkit.training.preferences import PreferenceConfig as PreferenceConfig
    from agentkit.training.preferences import learn_preferences as learn_preferences
    from agentkit.training.replay import ReplayBuffer as ReplayBuffer
    from agentkit.training.selection import Best as Best
    from agentkit.training.selection import Successes as Successes
    from agentkit.training.selection import Top as Top
    from agentkit.training.selection import corrected_turns as corrected_turns
    from agentkit.training.sft import SftConfig as SftConfig
    from agentkit.training.sft import fine_tune as fine_tune
    from agentkit.training.trainer import Trainer as Trainer

_HOMES = {
    "ACE": "agentkit.training.advantages",
    "ActFocus": "agentkit.training.credit",
    "Amplify": "agentkit.training.advantages",
    "ArCHer": "agentkit.training.advantages",
    "Best": "agentkit.training.selection",
    "CANON": "agentkit.training.advantages",
    "D3S": "agentkit.training.credit",
    "DPO": "agentkit.training.preferences",
    "DrGRPO": "agentkit.training.advantages",
    "Forks": "agentkit.training.credit",
    "GAE": "agentkit.training.advantages",
    "GRPO": "agentkit.training.advantages",
    "GiGPO": "agentkit.training.advantages",
    "ImitationConfig": "agentkit.training.config",
    "KTO": "agentkit.training.preferences",
    "MCGRPO": "agentkit.training.advantages",
    "Novelty": "agentkit.training.advantages",
    "Outcomes": "agentkit.training.advantages",
    "Pivot": "agentkit.training.credit",
    "PreferenceConfig": "agentkit.training.preferences",
    "Product": "agentkit.training.credit",
    "RLOO": "agentkit.training.advantages",
    "Recalled": "agentkit.training.credit",
    "ReinforcePlusPlus": "agentkit.training.advantages",
    "ReplayBuffer": "agentkit.training.replay",
    "SftConfig": "agentkit.training.sft",
    "Spread": "agentkit.training.advantages",
    "Successes": "agentkit.training.selection",
    "Top": "agentkit.training.selection",
    "TrainConfig": "agentkit.training.config",
    "Trainer": "agentkit.training.trainer",
    "TurnReturns": "agentkit.training.advantages",
    "UIS1": "agentkit.training.advantages",
    "Uniform": "agentkit.training.credit",
    "corrected_turns": "agentkit.training.selection",
    "export_episodes": "agentkit.training.export",
    "fine_tune": "agentkit.training.sft",
    "learn_preferences": "agentkit.training.preferences",
    "preference_pairs": "agentkit.training.pairs",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
