"""Learning from episodes: rows, advantages, token credit, replay, losses, the trainer."""

if __name__ != "agentkit.training":
    raise ImportError("import 'agentkit.training', not 'training'")

from typing import TYPE_CHECKING

from agentkit.lazy import lazy_names

if TYPE_CHECKING:
    from agentkit.training.config import ImitationConfig as ImitationConfig
    from agentkit.training.config import TrainConfig as TrainConfig
    from agentkit.training.credit import ActFocus as ActFocus
    from agentkit.training.credit import Uniform as Uniform
    from agentkit.training.replay import ReplayBuffer as ReplayBuffer
    from agentkit.training.sft import SftConfig as SftConfig
    from agentkit.training.sft import fine_tune as fine_tune
    from agentkit.training.trainer import Trainer as Trainer

_HOMES = {
    "ActFocus": "agentkit.training.credit",
    "ImitationConfig": "agentkit.training.config",
    "ReplayBuffer": "agentkit.training.replay",
    "SftConfig": "agentkit.training.sft",
    "TrainConfig": "agentkit.training.config",
    "Trainer": "agentkit.training.trainer",
    "Uniform": "agentkit.training.credit",
    "fine_tune": "agentkit.training.sft",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
