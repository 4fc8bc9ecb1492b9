"""What stands and lies in which room: the facts about kinds of receptacles and objects, as ALFRED has them.

What fits where and what can be treated how is ALFRED's; how often a kind occurs is rounded from its scenes.
"""

from __future__ import annotations

_PORTABLE = """alarmclock apple baseballbat basketball book bowl box bread butterknife candle cd cellphone cloth
    creditcard cup dishsponge egg fork glassbottle handtowel kettle keychain knife ladle laptop lettuce mug newspaper
    pan papertowel pen pencil peppershaker plate pot potato remotecontrol saltshaker soapbar soapbottle spatula spoon
    spraybottle statue tennisracket tissuebox toiletpaper toiletpaperroll tomato vase watch wateringcan winebottle"""
_SEAT = "basketball book box cellphone cloth creditcard keychain laptop newspaper pillow remotecontrol"
_DESK = """alarmclock basketball book bowl box candle cd cellphone cloth creditcard cup glassbottle keychain laptop mug
    newspaper pen pencil plate remotecontrol spraybottle statue tennisracket tissuebox toiletpaper toiletpaperroll vase
    watch wateringcan winebottle"""
FITS = {
    kind: frozenset(names.split())
    for kind, names in {
        "armchair": _SEAT,
        "bathtubbasin": "cloth dishsponge handtowel soapbar",
        "bed": "baseballbat basketball book cellphone laptop newspaper pillow tennisracket",
        "cabinet": """book bowl box candle cd cloth cup dishsponge glassbottle handtowel kettle ladle mug newspaper pan
            peppershaker plate plunger pot saltshaker soapbar soapbottle spraybottle tissuebox toiletpaper
            toiletpaperroll vase wateringcan winebottle""",
        "cart": """candle cloth dishsponge handtowel mug papertowel plunger soapbar soapbottle spraybottle statue
            tissuebox toiletpaper toiletpaperroll vase""",
        "coffeemachine": "mug",
        "coffeetable": _PORTABLE,
        "countertop": _PORTABLE,
        "desk": f"{_DESK} soapbottle",
        "diningtable": _PORTABLE,
        "drawer": """book butterknife candle cd cellphone cloth creditcard dishsponge fork handtowel keychain knife
            ladle newspaper pen pencil peppershaker remotecontrol saltshaker soapbar soapbottle spatula spoon
            spraybottle tissuebox toiletpaper toiletpaperroll watch wateringcan""",
        "dresser": _DESK,
        "fridge": "apple bowl bread cup egg glassbottle lettuce mug pan plate pot potato tomato winebottle",
        "garbagecan": """apple bread cd cloth dishsponge egg handtowel lettuce newspaper papertowel pen pencil potato
            soapbar soapbottle spraybottle tissuebox toiletpaper toiletpaperroll tomato winebottle""",
        "handtowelholder": "handtowel",
        "laundryhamper": "cloth",
        "microwave": "apple bowl bread cup egg glassbottle mug plate potato tomato",
        "ottoman": _SEAT,
        "safe": "cd cellphone creditcard keychain statue vase watch",
        "shelf": """alarmclock book bowl box candle cd cellphone cloth creditcard cup dishsponge glassbottle handtowel
            kettle keychain mug newspaper papertowel pen pencil peppershaker plate pot remotecontrol saltshaker soapbar
            soapbottle spraybottle statue tissuebox toiletpaper toiletpaperroll vase watch wateringcan winebottle""",
        "sidetable": _PORTABLE,
        "sinkbasin": """apple bowl butterknife cloth cup dishsponge egg fork glassbottle handtowel kettle knife ladle
            lettuce mug pan plate pot potato soapbar spatula spoon tomato""",
        "sofa": _SEAT,
        "stoveburner": "kettle pan pot",
        "toilet": """candle cloth dishsponge handtowel newspaper papertowel soapbar soapbottle spraybottle tissuebox
            toiletpaper toiletpaperroll""",
        "toiletpaperhanger": "toiletpaper toiletpaperroll",
        "towelholder": "towel",
        "tvstand": "tissuebox",
    }.items()
}
"""Kind of receptacle -> kinds of objects it takes."""
OPENABLE = frozenset({"cabinet", "drawer", "fridge", "microwave", "safe"})
LAMP = "desklamp"
LAMP_STANDS = ("desk", "dresser", "sidetable", "diningtable", "shelf")
"""Kinds of receptacles on which a lamp stands; it cannot be carried."""

_TRAITS = {
    "cleanable": """apple bowl butterknife cloth cup dishsponge egg fork kettle knife ladle lettuce mug pan plate pot
        potato soapbar spatula spoon tomato""",
    "heatable": "apple bread cup egg mug plate potato tomato",
    "coolable": "apple bowl bread cup egg lettuce mug pan plate pot potato tomato winebottle",
    "sliceable": "apple bread egg lettuce potato tomato",
    "holder": "bowl box cup mug pan plate pot",
}
_KINDS = sorted(set().union(*FITS.values()))
TRAITS_OF = {
    LAMP: ("toggleable",),
    **{kind: ("pickupable", *(trait for trait, kinds in _TRAITS.items() if kind in kinds.split())) for kind in _KINDS},
}
"""Kind of object -> its traits."""

Chances = dict[str, tuple[float, int]]
"""Kind -> probability that the room has any, and the most that it has."""


def _each(kinds: str, chance: float, most: int) -> Chances:
    return dict.fromkeys(kinds.split(), (chance, most))


_KITCHENWARE = (
    "apple bowl bread butterknife cup dishsponge egg fork knife lettuce mug pan peppershaker plate pot potato"
)
ROOMS: dict[str, tuple[Chances, Chances]] = {
    "kitchen": (
        {
            "cabinet": (1.0, 8),
            "coffeemachine": (0.5, 1),
            "countertop": (1.0, 3),
            "diningtable": (0.6, 2),
            "drawer": (0.8, 6),
            "fridge": (1.0, 1),
            "garbagecan": (0.6, 1),
            "microwave": (1.0, 1),
            "safe": (0.05, 1),
            "shelf": (0.2, 3),
            "sidetable": (0.1, 1),
            "sinkbasin": (1.0, 1),
            "stoveburner": (0.7, 4),
        },
        _each(f"{_KITCHENWARE} saltshaker soapbottle spatula spoon tomato", 0.8, 3)
        | _each("glassbottle kettle ladle winebottle", 0.4, 2)
        | _each("book cellphone creditcard pen pencil spraybottle statue vase", 0.1, 2),
    ),
    "living room": (
        {
            "armchair": (0.9, 2),
            "cabinet": (0.1, 4),
            "coffeetable": (0.8, 2),
            "desk": (0.1, 1),
            "diningtable": (0.4, 1),
            "drawer": (0.7, 6),
            "dresser": (0.3, 1),
            "garbagecan": (0.4, 1),
            "ottoman": (0.1, 1),
            "safe": (0.05, 1),
            "shelf": (0.3, 4),
            "sidetable": (1.0, 3),
            "sofa": (1.0, 2),
            "tvstand": (0.5, 1),
        },
        _each("box creditcard keychain laptop pillow remotecontrol statue", 0.9, 3)
        | _each("newspaper vase watch", 0.6, 3)
        | _each("book bowl candle cellphone pen pencil plate tissuebox wateringcan", 0.3, 2),
    ),
    "bedroom": (
        {
            "armchair": (0.15, 1),
            "bed": (1.0, 2),
            "cabinet": (0.1, 4),
            "desk": (0.8, 2),
            "diningtable": (0.15, 1),
            "drawer": (0.9, 6),
            "dresser": (0.5, 1),
            "garbagecan": (0.3, 1),
            "laundryhamper": (0.2, 1),
            "safe": (0.2, 1),
            "shelf": (0.6, 5),
            "sidetable": (1.0, 2),
        },
        _each("alarmclock book cd cellphone creditcard keychain laptop pen pencil pillow", 0.9, 3)
        | _each("baseballbat bowl box mug tennisracket", 0.5, 2)
        | _each("basketball cloth remotecontrol statue tissuebox vase watch", 0.2, 2),
    ),
    "bathroom": (
        {
            "bathtubbasin": (0.8, 1),
            "cabinet": (0.6, 5),
            "cart": (0.1, 1),
            "countertop": (0.9, 2),
            "drawer": (0.4, 6),
            "dresser": (0.15, 1),
            "garbagecan": (0.7, 1),
            "handtowelholder": (0.5, 2),
            "shelf": (0.25, 3),
            "sidetable": (0.1, 1),
            "sinkbasin": (1.0, 2),
            "toilet": (1.0, 1),
            "toiletpaperhanger": (0.5, 1),
            "towelholder": (0.4, 2),
        },
        _each("candle cloth handtowel soapbar soapbottle spraybottle toiletpaper", 0.9, 3)
        | _each("plunger towel", 0.6, 1)
        | _each("dishsponge papertowel tissuebox toiletpaperroll", 0.2, 2),
    ),
}
"""Room -> its receptacles and its objects."""
ROOMS_OF = {
    "pick_and_place_simple": ("kitchen", "living room", "bedroom", "bathroom"),
    "look_at_obj_in_light": ("living room", "bedroom"),
    "pick_clean_then_place_in_recep": ("kitchen", "bathroom"),
    "pick_heat_then_place_in_recep": ("kitchen",),
    "pick_cool_then_place_in_recep": ("kitchen",),
    "pick_two_obj_and_place": ("kitchen", "living room", "bedroom", "bathroom"),
}
"""Type of task -> the rooms in which ALFRED sets it."""
