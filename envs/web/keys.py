"""Keys: the names that people write for keys, and those that browsers know."""

from __future__ import annotations

MODIFIERS = {
    "ctrl": "Control",
    "control": "Control",
    "shift": "Shift",
    "alt": "Alt",
    "meta": "Meta",
    "super": "Meta",
    "cmd": "Meta",
}
NAMED = {
    "enter": "Enter",
    "return": "Enter",
    "tab": "Tab",
    "esc": "Escape",
    "escape": "Escape",
    "space": "Space",
    "backspace": "Backspace",
    "delete": "Delete",
    "del": "Delete",
    "insert": "Insert",
    "home": "Home",
    "end": "End",
    "pageup": "PageUp",
    "page_up": "PageUp",
    "pagedown": "PageDown",
    "page_down": "PageDown",
    "up": "ArrowUp",
    "down": "ArrowDown",
    "left": "ArrowLeft",
    "right": "ArrowRight",
    "arrowup": "ArrowUp",
    "arrowdown": "ArrowDown",
    "arrowleft": "ArrowLeft",
    "arrowright": "ArrowRight",
    **{f"f{number}": f"F{number}" for number in range(1, 13)},
}
"""Written name, in small letters -> browser's name."""


def key_chord(text: str) -> str | None:
    """The browser's name for a key with modifiers, or None if there is no such key.

    >>> key_chord("ctrl+shift+Left"), key_chord("a"), key_chord("ctrl++"), key_chord("hyper+x")
    ('Control+Shift+ArrowLeft', 'a', 'Control++', None)
    """
    before, plus, last = text.rpartition("+")
    if plus and not last and (not before or before.endswith("+")):  # the plus key itself
        before, last = before.rstrip("+"), "+"
    modifiers = [MODIFIERS.get(word.lower(), "") for word in before.split("+") if word]
    key = last if len(last) == 1 and " " < last <= "~" else NAMED.get(last.lower()) or MODIFIERS.get(last.lower())
    if key is None or "" in modifiers:
        return None
    if len(key) == 1 and key.isalpha() and modifiers and "Shift" not in modifiers:
        key = key.lower()
    return "+".join([*modifiers, key])
