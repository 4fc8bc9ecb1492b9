"""The shop as a state machine: what a click or a search leads to. Sessions are immutable values.

As in the original: search works on every page, a click on what is not there changes nothing, choosing another
product or going back to the results forgets the options, and going back to the search page forgets everything.
"""

from __future__ import annotations

from typing import NamedTuple

from agentkit.envs.webshop.catalogue import Catalogue, Goal, Options, Product
from agentkit.envs.webshop.reward import Score, score_of
from agentkit.envs.webshop.search import Search

PAGE_SIZE = 10
SEARCH, RESULTS, ITEM, DONE = "search", "results", "item", "done"
DETAILS = ("description", "features", "reviews")
"""Pages about a product that its own page leads to."""
BACK_TO_SEARCH, NEXT, PREVIOUS, BUY = "back to search", "next >", "< prev", "buy now"


class Session(NamedTuple):
    """Where a customer is and what they did."""

    page: str = SEARCH
    """`search`, `results`, `item`, one of `DETAILS`, or `done`."""
    keywords: str = ""
    """What was searched for last; '' on the search page."""
    number: int = 1
    """Page of the results, from 1."""
    asin: str = ""
    """Product being looked at, or bought; '' elsewhere."""
    options: Options = ()
    """Chosen so far for that product."""
    visited: tuple[str, ...] = ()
    """Ids of the products looked at since the last visit to the search page."""
    reward: float | None = None
    """What the purchase was worth; None before."""


class Shop:
    """A catalogue with its search; plays sessions of any number of customers."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.search = Search(catalogue.products)

    def results(self, session: Session) -> tuple[str, ...]:
        """Ids of all products found, at most 50, of which `shown` are on the page."""
        return self.search.find(session.keywords)

    def shown(self, session: Session) -> tuple[str, ...]:
        """Ids of the products on the page of results, at most 10; none behind the last page."""
        return self.results(session)[(session.number - 1) * PAGE_SIZE : session.number * PAGE_SIZE]

    def product(self, session: Session) -> Product:
        """The product being looked at."""
        return self.catalogue.by_asin[session.asin]

    def clickables(self, session: Session) -> list[str]:
        """What can be clicked, lower case, in the order of the page."""
        if session.page == SEARCH:
            return ["search"]
        if session.page == DONE:
            return []
        if session.page == RESULTS:
            buttons = [BACK_TO_SEARCH, PREVIOUS, NEXT] if session.number > 1 else [BACK_TO_SEARCH, NEXT]
            return buttons + [asin.lower() for asin in self.shown(session)]
        if session.page in DETAILS:
            return [BACK_TO_SEARCH, PREVIOUS]
        values = [value for _, values in self.product(session).options for value in values]
        return list(dict.fromkeys([BACK_TO_SEARCH, PREVIOUS, *DETAILS, BUY, *filter(None, values)]))

    def act(self, session: Session, goal: Goal, verb: str, argument: str) -> Session:
        """The session after `search` or `click` with an argument of any case."""
        argument = argument.lower()
        if session.page == DONE:
            return session
        if verb == "search":
            return Session(RESULTS, argument, visited=session.visited)
        if argument == "search" or argument not in self.clickables(session):
            return session
        return self._click(session, goal, argument)

    def score(self, session: Session, goal: Goal) -> Score:
        """What buying the product being looked at with the options chosen is worth."""
        return score_of(self.product(session), session.options, goal, self.catalogue.by_asin[goal.asin])

    def _click(self, session: Session, goal: Goal, target: str) -> Session:
        """Follow a click on something that is there."""
        if session.page == ITEM:  # options come first: a value may have the name of a button
            for name, values in reversed(self.product(session).options):
                if target in values:
                    return session._replace(options=tuple(sorted({**dict(session.options), name: target}.items())))
        if target == BACK_TO_SEARCH:
            return Session()
        if target == BUY:
            return session._replace(page=DONE, reward=self.score(session, goal).reward)
        if target in DETAILS and session.page == ITEM:
            return session._replace(page=target)
        if session.page == RESULTS:
            if target in (NEXT, PREVIOUS):
                return session._replace(number=session.number + (1 if target == NEXT else -1))
            asin = target.upper()
            visited = session.visited if asin in session.visited else (*session.visited, asin)
            return session._replace(page=ITEM, asin=asin, visited=visited)
        if session.page == ITEM:
            return session._replace(page=RESULTS, asin="", options=())
        return session._replace(page=ITEM)
