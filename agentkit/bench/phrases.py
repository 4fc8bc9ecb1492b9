"""The words of the generated dialogues: what people say, and what is asked about it in other words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One thing that can be known about a person."""

    values: dict[str, str]
    """What can be so, and what a question that takes knowledge of the world calls it; empty if it has none."""
    first: tuple[str, ...]
    """How somebody says it of themselves."""
    third: tuple[str, ...]
    """How others say it."""
    ask: tuple[str, ...]
    """How it is asked."""
    ask_world: str = ""
    ask_now: str = ""
    """Asks for the newest; only of what changes."""
    ask_first: str = ""

    @property
    def changes(self) -> bool:
        """Whether it is said again with another value."""
        return bool(self.ask_now)


TOPICS: dict[str, Topic] = {
    "home": Topic(
        dict.fromkeys(("Lyon", "Graz", "Porto", "Leeds", "Turku", "Bergen"), ""),
        ("I moved to {value} last week, boxes everywhere.", "{value} it is: I signed the lease."),
        ("{person} packed up and settled in {value}.", "{person} found a flat in {value}."),
        ("In which city does {person} live?",),
        ask_now="Where does {person} live these days?",
        ask_first="In which city did {person} live at the beginning?",
    ),
    "job": Topic(
        dict.fromkeys(("baker", "surveyor", "nurse", "welder", "translator", "florist"), ""),
        ("I started as a {value} on Monday.", "They hired me, so I am a {value} from now on."),
        ("{person} got hired as a {value}.", "{person} switched careers and is a {value}."),
        ("What does {person} do for a living?",),
        ask_now="What is {person}'s current occupation?",
        ask_first="What did {person} do for a living in the beginning?",
    ),
    "book": Topic(
        dict.fromkeys(("Middlemarch", "Dune", "Ulysses", "Emma", "Beloved", "Solaris"), ""),
        ("I cannot put {value} down.", "Halfway through {value}, no spoilers please."),
        ("{person} is deep into {value}.", "{person} stays up late over {value}."),
        ("What is {person} reading?",),
        ask_now="Which novel is {person} reading most recently?",
        ask_first="Which novel was {person} reading first?",
    ),
    "pet": Topic(
        {"parrot": "bird", "gecko": "reptile", "beagle": "dog", "tabby": "cat", "pony": "horse", "koi": "fish"},
        ("We brought a {value} home from the shelter.", "Guess who sleeps on my sofa: a {value}."),
        ("{person} came home with a {value}.", "There is a {value} at {person}'s place since Friday."),
        ("Which animal did {person} adopt?", "What pet does {person} keep?"),
        "Did {person} adopt a {hint}?",
    ),
    "instrument": Topic(
        {"cello": "bowed string", "trumpet": "brass", "flute": "woodwind", "piano": "keyboard", "harp": "plucked"},
        ("First {value} lesson today, my neighbours suffer.", "I rented a {value} for the winter."),
        ("{person} practises the {value} every evening.", "{person} bought a second-hand {value}."),
        ("What musical instrument is {person} learning?", "Which instrument does {person} play?"),
        "Does {person} play a {hint} instrument?",
    ),
    "sport": Topic(
        {"judo": "martial art", "rowing": "water", "bouldering": "climbing", "tennis": "racket", "skiing": "winter"},
        ("I joined the {value} club, everything hurts.", "Saturdays are for {value} from now on."),
        ("{person} got hooked on {value}.", "{person} won a small medal in {value}."),
        ("What sport did {person} take up?", "Which athletic activity is {person} into?"),
        "Has {person} taken up a {hint} sport?",
    ),
    "trip": Topic(
        {"Portugal": "Lisbon", "Norway": "Oslo", "Peru": "Lima", "Kenya": "Nairobi", "Nepal": "Kathmandu"},
        ("Back from two weeks in {value}, sunburnt.", "{value} was the best idea we had this year."),
        ("{person} sent a postcard from {value}.", "{person} hitch-hiked across {value}."),
        ("Which country did {person} visit on vacation?", "Where did {person} go on holiday?"),
        "Did {person} travel to the country with the capital {hint}?",
    ),
    "allergy": Topic(
        {"walnuts": "tree nuts", "mussels": "shellfish", "oats": "cereals", "peaches": "stone fruit"},
        ("No {value} for me, my throat swells up.", "The doctor says {value} are what gives me hives."),
        ("{person} ended up in hospital over some {value}.", "{person} cannot touch {value}."),
        ("What is {person} allergic to?", "Which food must {person} avoid?"),
        "Must {person} avoid {hint}?",
    ),
    "vehicle": Topic(
        dict.fromkeys(("scooter", "van", "motorbike", "convertible", "pickup"), ""),
        ("I bought a used {value}, it rattles.", "My {value} passed inspection, unbelievable."),
        ("{person} drove up in a {value}.", "{person} parked the {value} across two spaces."),
        ("What vehicle does {person} own?", "How does {person} get around?"),
    ),
}
NAMES = (
    *("Ana", "Bela", "Carlo", "Dorit", "Emre", "Freya", "Goran", "Hedda", "Ivo", "Jolan", "Kaisa", "Luca", "Mirek"),
    *("Nils", "Olga", "Pavel", "Quirin", "Rosa", "Selma", "Timo", "Ulla", "Viktor", "Wanda", "Xenia", "Yannis", "Zita"),
)
KIN = ("sister", "brother", "aunt", "cousin", "neighbour", "uncle", "mother", "landlord")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
SMALL_TALK = (
    "That sounds great, {other}!",
    "How have you been, {other}? Anything new about {topic}?",
    "I keep thinking about {topic} lately.",
    "Honestly, {topic} can wait until next month.",
    "You always say that, {other}.",
    "We should talk about {topic} some time.",
    "No idea, {other}, I was never good with {topic}.",
    "Ha, {topic} again? You and your {topic}!",
)
DISTRACTIONS = (
    *("the weather", "work", "my back", "music", "dinner", "reading more", "the car", "pets", "holidays", "sport"),
    *("the neighbours", "the living room", "allergies in spring", "the city council", "a country house", "animals"),
)
THINGS = ("mug", "lamp", "pan", "clock", "radio", "vase")
PLACES = ("shelf", "sink", "drawer", "table", "cabinet", "bench")
MOVES = ("put {} on", "carried {} to", "left {} at", "set {} down at", "brought {} over to")
CHORES = ("wiped", "inspected", "emptied", "tidied", "painted")
