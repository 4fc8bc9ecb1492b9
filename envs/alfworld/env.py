"""ALFWorld: household chores in text, played on the real games with the real engine.

The class can be imported without the extra; TextWorld and its planner are imported when a game is played.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gymnasium.error import ResetNeeded

from agentkit.envs.alfworld.games import Game, find_games
from agentkit.envs.contract import TextEnv
from agentkit.envs.household.grammar import NOTHING, Command, parse_command, player_instructions
from agentkit.envs.household.house import TASK_TYPES
from agentkit.errors import AgentkitError, ConfigError, lacking, unknown_name
from agentkit.task import HELD_OUT_OFFSET

if TYPE_CHECKING:
    from agentkit.envs.alfworld.engine import Engine
    from agentkit.envs.alfworld.expert import GameExpert

GENERATED = "generated"
EXPERT_NAMES = ("planner", "handcoded")


class ALFWorld(TextEnv):
    """Find, clean, heat, cool and carry things in a house that is seen a place at a time. Implements `Expert`.

    An observation is the game's answer, exactly. The reward is 1 when the task is done. Seed s plays the game
    number s of its split, starting over after the last one; every attempt at it is the same.
    """

    metadata: dict[str, Any] = {"render_modes": [], "inline": False, "isolated": True}  # noqa: RUF012 - as Gymnasium
    example = "go to fridge 1"

    def __init__(
        self,
        *,
        data: str | None = None,
        train: str = "train",
        held_out: str = "valid_unseen",
        task_types: Sequence[str] = TASK_TYPES,
        expert: str = "planner",
        max_turns: int = 50,
        max_actions: int = 50,
        max_actions_per_turn: int = 1,
    ) -> None:
        """Make the environment; the budgets are ALFWorld's.

        Args:
            data: folder of games; "generated" for games made on the spot; None for `$ALFWORLD_DATA` or the folder
                into which `alfworld-download` puts them.
            train: subfolder with the games to learn on.
            held_out: subfolder with the games to be tested on. If `data` lacks one of the two, all games in it are
                divided by a hash of their content, one in five held out.
            task_types: ALFWorld's names of the types of task to play.
            expert: "planner" knows all facts and takes a shortest way; "handcoded" is ALFWorld's own, which
                searches, needs more steps, and does not always win.
            max_turns: turns in an episode.
            max_actions: played actions in an episode.
            max_actions_per_turn: actions that one turn's text may hold.

        Raises:
            MissingExtraError: ALFWorld is not installed.
            MissingPartError: there are no games.
            ConfigError: an argument is out of range, or games cannot be generated.
        """
        super().__init__(max_turns=max_turns, max_actions=max_actions, max_actions_per_turn=max_actions_per_turn)
        if expert not in EXPERT_NAMES:
            raise ConfigError(str(unknown_name("expert of ALFWorld", str(expert), EXPERT_NAMES)))
        if data == GENERATED:
            from agentkit.envs.alfworld.generated import generated_folder

            data, train, held_out = str(generated_folder()), "train", "valid_unseen"
        self.games = find_games(data, train, held_out, task_types)
        self.game: Game | None = None
        """The game that is played: its `id`, `path` and `task_type`."""
        self.instructions = player_instructions(max_turns, max_actions, max_actions_per_turn)
        self._expert_name = expert
        self._engine: Engine | None = None
        self._expert: GameExpert | None = None
        self._opening = ""
        self._won = False
        self._played: list[str] = []

    @classmethod
    def unavailable(cls) -> AgentkitError | None:
        """See `TextEnv`. Games are another matter: without any, making the environment raises."""
        return lacking("alfworld", "textworld")

    def close(self) -> None:
        """Free the engine, and what the expert holds."""
        expert, self._expert = self._expert, None
        if expert is not None:
            expert.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
        self._over = True

    def expert_action(self) -> str:
        """The next command of the chosen expert; `look` where it knows none."""
        return self._ask().action(self._played)

    def expert_success(self) -> float:
        """1.0 if following the expert from here wins within the turns and actions left, else 0.0."""
        return float(self._won or self._ask().wins(self._played, min(self.turns_left, self.actions_left)))

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        from agentkit.envs.alfworld.engine import Engine

        games = self.games[split]
        game = games[(seed - HELD_OUT_OFFSET if seed >= HELD_OUT_OFFSET else seed) % len(games)]
        if self._engine is None or game != self.game:
            self.close()
            self.game, self._engine = game, Engine(game.path)
        elif self._expert is not None:
            self._expert.close()
        self._expert = None
        self._opening, self._won, self._played = self._engine.reset(), False, []

    def _ask(self) -> GameExpert:
        if self._expert is None:
            from agentkit.envs.alfworld.expert import EXPERTS

            self._expert = EXPERTS[self._expert_name](self._playing().path)
        return self._expert

    def _playing(self) -> Engine:
        if self._engine is None:
            raise ResetNeeded("no game is being played; call reset() first")
        return self._engine

    def _misread(self, culprit: str, some_played: bool) -> str:
        return NOTHING

    def _parse(self, text: str) -> Command | None:
        return parse_command(text)

    def _act(self, action: Command) -> tuple[float, str]:
        command = str(action)
        self._played.append(command)
        answer, self._won = self._playing().step(command)
        return float(self._won), answer

    def _observe(self) -> str:
        return self._opening if self.turns_left == self.max_turns else ""

    def _outcome(self) -> bool | None:
        return True if self._won else None

    def _state_key(self) -> str:
        return self._playing().state_key

    def _admissible(self) -> list[str]:
        return self._playing().admissible
