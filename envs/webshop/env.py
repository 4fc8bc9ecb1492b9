"""WebShop in text: an instruction, a shop, and a reward at Buy Now (Yao et al. 2022, arXiv 2207.01206).

Re-implemented without Flask, HTML parsing, Java and spaCy: pages are made directly as text, which makes a step
hundreds of times faster. Page formats, actions and the reward formula are the original's.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentkit.envs.contract import SEPARATOR, whole_number
from agentkit.envs.puzzle import Puzzle, level_key
from agentkit.envs.webshop.catalogue import Goal
from agentkit.envs.webshop.expert import plan
from agentkit.envs.webshop.files import load_catalogue
from agentkit.envs.webshop.pages import Element, as_html, as_rich_text, as_text, page_of
from agentkit.envs.webshop.shop import DONE, SEARCH, Session, Shop
from agentkit.envs.webshop.stock import NUM_PRODUCTS, stock_catalogue
from agentkit.errors import AgentkitError, ConfigError, lacking, unknown_name
from agentkit.task import HELD_OUT_OFFSET

OBSERVATIONS = {"text": as_text, "text_rich": as_rich_text, "html": as_html}
_ACTION = re.compile(r"(search|click)\s*\[(.*)\]", re.IGNORECASE | re.DOTALL)
_OPEN = re.compile(r"\s*(?:search|click)\s*\[", re.IGNORECASE)
_LIMIT = re.compile(r",? and price lower than [\d.]+ dollars$")
_CHOICE = re.compile(r" with (?:(?! with )[^:,])+: .*$")


class WebShop(Puzzle):
    """Buy what the instruction asks for. Implements `Snapshot`, `Expert` and `Goals`.

    The only reward is that of the purchase, in [0, 1], and buying ends the episode; success is a reward of 1.
    The level is a goal, the state a session.
    """

    example = "search[console tables] || click[next >]"

    def __init__(
        self,
        *,
        catalogue: str | None = None,
        num_products: int | None = None,
        human_goals: bool = False,
        observation: str = "text",
        max_turns: int = 15,
        max_actions_per_turn: int = 1,
    ) -> None:
        """Make the environment; shops are loaded once a process and shared.

        Args:
            catalogue: folder with WebShop's files (see `agentkit.envs.webshop.files`); None is the built-in shop.
            num_products: how many of the first products are for sale; None is all, and 1,000 in the built-in shop.
            human_goals: with a catalogue, goals are the instructions that people wrote.
            observation: `text`, `text_rich` or `html`.
            max_turns: turns in an episode.
            max_actions_per_turn: actions that one turn's text may hold.

        Raises:
            ConfigError: an argument is out of range, or a file of the catalogue is damaged.
            MissingPartError: the catalogue's folder or a file in it is not there.
            MissingExtraError: the extra `webshop` is not installed.
        """
        most = whole_number("max_turns", max_turns) * whole_number("max_actions_per_turn", max_actions_per_turn)
        super().__init__(max_turns=max_turns, max_actions=most, max_actions_per_turn=max_actions_per_turn)
        if observation not in OBSERVATIONS:
            raise ConfigError(str(unknown_name("observation", str(observation), OBSERVATIONS)))
        if catalogue is not None and not isinstance(catalogue, str):
            raise ConfigError(f"catalogue must be the path of a folder, got {catalogue!r}")
        if human_goals and catalogue is None:
            raise ConfigError("human_goals=True needs a catalogue: the built-in shop has no goals that people wrote")
        if num_products is not None:
            whole_number("num_products", num_products)
        self.observation = observation
        self.shop = open_shop(catalogue, num_products, human_goals)
        several = (
            f" At most {max_actions_per_turn} a turn, separated by {SEPARATOR}." if max_actions_per_turn > 1 else ""
        )
        self.instructions = (
            "You are shopping on a web site. Find a product that meets the instruction, choose the options it asks "
            "for, and buy it; attributes, options and price all count, and you can buy only once.\n"
            "Actions: search[keywords] looks for products; click[value] clicks a button, a product's id or an option "
            "on the current page, for example click[b08gfnjn5r], click[< prev] or click[buy now]. Clicking what is "
            f"not there does nothing.{several}\n"
            f"You have {max_turns} turns."
        )

    @classmethod
    def unavailable(cls) -> AgentkitError | None:
        """The error that names the extra, if it is not installed."""
        return lacking("bm25s", "rapidfuzz")

    def available_actions(self) -> dict[str, Any]:
        """As in the original: `has_search_bar`, and `clickables` in lower case."""
        return {"has_search_bar": self.state.page == SEARCH, "clickables": self.shop.clickables(self.state)}

    def page(self) -> list[Element]:
        """The elements of the current page."""
        return page_of(self.shop, self.state, self.level)

    def expert_action(self) -> str:
        """The next turn of the purchase of the goal's product."""
        most = max(1, min(self.max_actions_per_turn, self.actions_left))
        actions, _ = plan(self.shop, self.state, self.level, most)
        return f" {SEPARATOR} ".join(f"{verb}[{argument}]" for verb, argument in actions) or "click[buy now]"

    def expert_success(self) -> float:
        """1.0 if that purchase is worth 1 and fits the turns left, else 0.0: nothing here is random."""
        actions, end = plan(self.shop, self.state, self.level)
        fits = len(actions) <= min(self.actions_left, self.turns_left * self.max_actions_per_turn)
        return float(end.reward == 1.0 and fits)

    def desired_goal(self) -> str:
        """What the purchase has to meet, in words."""
        kind = self.shop.catalogue.by_asin[self.level.asin].query
        return _requirements(self.level, kind, self.level.attributes, self.level.options, True)

    def achieved_goal(self) -> str:
        """What of that the purchase meets, in the same words."""
        if self.state.page != DONE:
            return "nothing bought"
        score = self.shop.score(self.state, self.level)
        bought, wanted = (self.shop.catalogue.by_asin[asin].query for asin in (self.state.asin, self.level.asin))
        kind = wanted if score.r_type == 1 else f"not {wanted} but {bought}"
        return _requirements(self.level, kind, score.attributes, score.options, score.in_budget)

    def _draw(self, split: str, seed: int) -> Goal:
        return goal_of(self.shop, split, seed)

    def _start(self) -> Session:
        return Session()

    def _pieces(self, text: str) -> list[str]:
        """Pieces between separators, but not inside of `search[...]` and `click[...]`."""
        pieces: list[list[str]] = []
        inside = False
        for part in text.split(SEPARATOR):
            if inside:
                pieces[-1].append(part)
            else:
                pieces.append([part])
            inside = (inside or _OPEN.match(part) is not None) and not part.rstrip().endswith("]")
        joined = (SEPARATOR.join(parts).strip() for parts in pieces)
        return [piece for piece in joined if piece]

    def _parse(self, text: str) -> tuple[str, str] | None:
        found = _ACTION.fullmatch(text.strip())
        return (found[1].lower(), found[2].strip().lower()) if found and found[2].strip() else None

    def _act(self, action: tuple[str, str]) -> tuple[float, str]:
        self.state = self.shop.act(self.state, self.level, *action)
        return self.state.reward or 0.0, ""

    def _observe(self) -> str:
        return OBSERVATIONS[self.observation](self.page())

    def _outcome(self) -> bool | None:
        return None if self.state.reward is None else self.state.reward == 1.0

    def _state_key(self) -> str:
        # Which products were looked at before shows in one mode only; elsewhere the state is the same without.
        session = self.state if self.observation == "text_rich" else self.state._replace(visited=())
        digest = hashlib.blake2b(repr(tuple(session)).encode(), digest_size=8).hexdigest()
        return f"{level_key('WebShop', self.level)}:{digest}"

    def _admissible(self) -> list[str]:
        if self.state.page == SEARCH:
            return [f"search[{query}]" for query in queries_of(self.level.instruction)]
        return [f"click[{value}]" for value in self.shop.clickables(self.state)]


@lru_cache(maxsize=4)
def open_shop(catalogue: str | None = None, num_products: int | None = None, human_goals: bool = False) -> Shop:
    """The shop of a folder, or the built-in one, with its search index; the same arguments give the same shop.

    Raises:
        ConfigError, MissingPartError, MissingExtraError: see `WebShop`.
    """
    if catalogue is None:
        return Shop(stock_catalogue(num_products or NUM_PRODUCTS))
    return Shop(load_catalogue(Path(catalogue).expanduser(), num_products, human_goals))


def goal_of(shop: Shop, split: str, seed: int) -> Goal:
    """The goal that a seed names: goals have an order, and task N of a split has goal N, over and over.

    Raises:
        ConfigError: the split has no goals.
    """
    goals = shop.catalogue.goals[split]
    if not goals:
        raise ConfigError(f"the catalogue has no {split} goals; take more products")
    return goals[seed % HELD_OUT_OFFSET % len(goals)]


@lru_cache(maxsize=4096)
def queries_of(instruction: str) -> tuple[str, ...]:
    """One to three sensible searches for an instruction: its core, its thing, and all but the price.

    >>> queries_of("Find me non slip, slim fit shoes with rubber sole with size: 9, and price lower than 60.00 dollars")
    ('non slip, slim fit shoes with rubber sole', 'slim fit shoes', 'non slip, slim fit shoes with rubber sole size: 9')
    """
    full = _LIMIT.sub("", instruction).lower().removeprefix("find me ").strip()
    core = _CHOICE.sub("", full)
    thing = re.split(r" with | for ", core)[0].rpartition(", ")[2]
    rest = full[len(core) :].removeprefix(" with")
    queries = (core, thing, core + rest)
    return tuple(dict.fromkeys(query.strip() for query in queries if query.strip())) or ("products",)


def _requirements(
    goal: Goal, kind: str, attributes: tuple[str, ...], options: tuple[tuple[str, str], ...], in_budget: bool
) -> str:
    chosen = ", ".join(f"{name}: {value}".removeprefix(": ") for name, value in options)
    price = "within" if in_budget else "above"
    return f"{kind}; {', '.join(attributes)}; {chosen}; {price} {goal.price_upper:.2f} dollars"
