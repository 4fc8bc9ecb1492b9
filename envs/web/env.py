"""MiniWoB: the small web pages of MiniWoB++, played by gestures in a real Chromium.

A seed names a page and the seed of that page's random numbers. The page's own clock moves only with the gestures
(`clock.js`), so that its countdown is off and the same gestures always meet the same page.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from agentkit.envs.contract import TextEnv, whole_number
from agentkit.envs.gestures import Gesture, parse_gesture, quote, split_gestures
from agentkit.envs.web.browser import missing_browser
from agentkit.envs.web.elements import Element, Sight
from agentkit.envs.web.experts import EXPERTS, Scene, quoted_strings
from agentkit.envs.web.page import WebPage
from agentkit.envs.web.tasks import html_folder, page_names, page_url
from agentkit.errors import AgentkitError, ConfigError, EnvironmentFault, unknown_name

WIDTH, HEIGHT = 320, 320
"""Pixels of the view; the task itself is at the top left, 160 by 210."""
IGNORED = "#query, #reward-display, #click-canvas, #sync-task-cover"
"""The instruction, which is shown above the page, and MiniWoB's own display."""
READY_MS = 10_000
"""The page's own time within which it has to be ready to play."""
RENEW_AFTER = 20
"""Episodes after which the page is closed and opened anew: Playwright remembers all that a page has ever loaded."""
MOST_UTTERANCE = 2000
"""Characters of the page's instruction."""
MOST_OPTIONS, MOST_STRINGS = 20, 6
"""Options of one selection, and strings of the instruction for one field, among the admissible actions."""
BEGIN = """seed => {
  core.EPISODE_MAX_TIME = 2000000000;
  Math.seedrandom(seed);
  core.startEpisodeReal();
  if (document.activeElement && document.activeElement.id === "sync-task-cover") document.activeElement.blur();
}"""
STATUS = """() => {
  const told = core.getUtterance(), utterance = typeof told === "object" ? told.utterance : told;
  return {
    ready: WOB_TASK_READY === true, done: WOB_DONE_GLOBAL === true, reward: WOB_RAW_REWARD_GLOBAL,
    utterance: String(utterance).slice(0, 10000),
  };
}"""


class MiniWoB(TextEnv):
    """One of MiniWoB++'s pages in each episode. Implements `Screen` and `Expert`.

    The reward is the page's own at the end, in [-1, 1], not scaled by time; success is a reward above 0.
    """

    metadata = {"render_modes": [], "inline": False, "isolated": False, "most_at_once": 8}  # noqa: RUF012 - as Gymnasium
    example = 'click 3 || fill 4 "some text"'

    def __init__(
        self,
        *,
        tasks: str | Sequence[str] = "scripted",
        observation: str = "text",
        max_chars: int = 4000,
        max_text: int = 500,
        max_turns: int = 20,
        max_actions: int = 20,
        max_actions_per_turn: int = 1,
    ) -> None:
        """Make the environment; the browser starts with the first reset.

        Args:
            tasks: "scripted" (the pages that have an expert), "all", the name of a page, or a list of names; seeds go
                through them in turn.
            observation: "text" shows the page's elements; "screen" only the instruction, for models that look at
                `screenshot()`.
            max_chars: characters of the page's elements in an observation; the rest is cut, and said to be.
            max_text: characters of one element's text; the rest is cut, and said to be.
            max_turns: turns in an episode.
            max_actions: played gestures in an episode.
            max_actions_per_turn: gestures that one turn's text may hold.

        Raises:
            ConfigError: an argument is out of range.
            UnknownNameError: no page of that name.
            MissingExtraError, MissingPartError: the extra or Chromium is not installed.
        """
        super().__init__(max_turns=max_turns, max_actions=max_actions, max_actions_per_turn=max_actions_per_turn)
        if observation not in ("text", "screen"):
            raise ConfigError(f"observation must be 'text' or 'screen', got {observation!r}")
        self.tasks = _chosen(tasks)
        self.observation = observation
        self.max_chars = whole_number("max_chars", max_chars, least=100)
        self.max_text = whole_number("max_text", max_text, least=10)
        self.task, self.utterance = "", ""
        self._page = WebPage(html_folder().as_uri() + "/", width=WIDTH, height=HEIGHT, ignore=IGNORED)
        self._seed = ""
        self._num_episodes = 0
        self._sight = Sight((), 0)
        self._reward: float | None = None
        self._played: list[Gesture] = []
        self._by_expert = True
        self.instructions = (
            "Do on the web page what the task says. Each line is an element: its number, what it is, its text.\n"
            'Actions: click N, double_click N, right_click N, hover N, fill N "text", select N "option", type "text", '
            "press KEY (as in press ctrl+a), scroll up|down|left|right [N], drag N to M, wait. In place of a number, "
            "at X Y names a point in pixels from the top left.\n"
            f"At most {max_actions_per_turn} a turn{', separated by ||' if max_actions_per_turn > 1 else ''}, "
            f"for example: {self.example}\n"
            f"You have {max_turns} turns and {max_actions} actions."
        )

    @classmethod
    def unavailable(cls) -> AgentkitError | None:
        """The extra `web`, or Chromium, if it is not installed."""
        return missing_browser("playwright", "miniwob")

    def screenshot(self) -> bytes:
        """What the page shows now, as PNG, 320 by 320 pixels."""
        return self._page.screenshot()

    def expert_action(self) -> str:
        """The next gesture of the page's scripted expert; `wait` where there is none or it is at its wits' end."""
        expert = EXPERTS.get(self.task)
        scene = Scene(self.utterance, self._sight.elements, tuple(self._played))
        return (expert.gesture(scene) if expert else None) or "wait"

    def expert_success(self) -> float:
        """1.0 on a page with an expert, while nobody else has played and the turns and actions suffice; else 0.0.

        It is what the expert promises, not the optimum: after other gestures it may still succeed.
        """
        expert = EXPERTS.get(self.task)
        needed = expert.most_gestures - len(self._played) if expert else 0
        return float(expert is not None and self._by_expert and needed <= min(self.turns_left, self.actions_left))

    def close(self) -> None:
        """Close the page; the browser stays for others."""
        self._page.close()

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        self.task = self.tasks[seed % len(self.tasks)]
        self._seed = f"{split}|{seed}"
        self._played, self._by_expert, self._reward = [], True, None
        self._num_episodes += 1
        if self._num_episodes % RENEW_AFTER == 0:
            self._page.close()
        self._page.goto(page_url(self.task))
        self._page.evaluate(BEGIN, self._seed)
        for _ in range(READY_MS // 500):
            self._page.pass_time(500)
            if (status := self._status())["ready"]:
                break
        else:
            raise EnvironmentFault(f"the page {self.task!r} did not become ready")
        words = " ".join(status["utterance"].split())[:MOST_UTTERANCE]
        self.utterance = "".join(letter for letter in words if letter.isprintable())
        self._look()

    def _pieces(self, text: str) -> list[str]:
        return split_gestures(text)

    def _parse(self, text: str) -> Gesture | None:
        gesture = parse_gesture(text)
        return None if gesture is None or gesture.kind == "done" else gesture  # the page itself says when it is done

    def _act(self, action: Gesture) -> tuple[float, str]:
        self._by_expert = self._by_expert and parse_gesture(self.expert_action()) == action
        remark = self._page.perform(action)
        self._played.append(action)
        status = self._status()
        self._look()
        if not status["done"]:
            return 0.0, remark
        self._reward = max(-1.0, min(1.0, status["reward"]))
        return self._reward, " ".join(filter(None, (remark, f"The task is over, with reward {self._reward:g}.")))

    def _observe(self) -> str:
        task = f"Task: {self.utterance}"
        return task if self.observation == "screen" else f"{task}\n{self._sight.text(self.max_chars, self.max_text)}"

    def _outcome(self) -> bool | None:
        return None if self._reward is None else self._reward > 0

    def _state_key(self) -> str:
        state = "\n".join(
            [self.task, self._seed, self.utterance, *(element.line() for element in self._sight.elements)]
        )
        return f"{self.task}:{hashlib.blake2b(state.encode(errors='replace'), digest_size=8).hexdigest()}"

    def _admissible(self) -> list[str]:
        if self.observation == "screen":
            points = [f"click at {one.x} {one.y}" for one in self._sight.numbered() if one.press and _in_view(one)]
            return [*dict.fromkeys(points), "wait"]
        strings = quoted_strings(self.utterance)[:MOST_STRINGS]
        actions: list[str] = []
        for element in self._sight.numbered():
            if element.tag == "select":
                actions += [f"select {element.number} {quote(option)}" for option in element.options[:MOST_OPTIONS]]
            elif element.press:
                actions.append(f"click {element.number}")
            if element.editable:
                actions += [f"fill {element.number} {quote(string)}" for string in strings]
            if "scrollable" in element.states:
                actions += [f"scroll {way} {element.number}" for way in ("down", "up")]
        if not any(action.startswith("click") for action in actions):
            actions += [f"click {element.number}" for element in self._sight.numbered()]
        return [*actions, "press Enter", "wait"]

    def _look(self) -> None:
        self._sight = self._page.observe()

    def _status(self) -> dict[str, Any]:
        """What the page says of the episode, checked."""
        status = self._page.evaluate(STATUS)
        reward = status.get("reward") if isinstance(status, dict) else None
        if (
            not isinstance(reward, (int, float))
            or not math.isfinite(reward)
            or not isinstance(status["utterance"], str)
        ):
            raise EnvironmentFault(f"the page {self.task!r} gives no account of the episode: {str(status)[:200]}")
        return status


def _in_view(element: Element) -> bool:
    return 0 <= element.x < WIDTH and 0 <= element.y < HEIGHT


def _chosen(tasks: str | Sequence[str]) -> tuple[str, ...]:
    if tasks == "scripted":
        return tuple(EXPERTS)
    names = page_names()
    if tasks == "all":
        return names
    chosen = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if not chosen:
        raise ConfigError("tasks must name at least one page, got none")
    for name in chosen:
        if name not in names:
            raise ConfigError(str(unknown_name("MiniWoB page", str(name), names)))
    return chosen
