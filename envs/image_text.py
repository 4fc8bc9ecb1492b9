"""ImageText: observations of text and image together, for models that see.

A plain Gymnasium wrapper and no `TextEnv`: what comes out is no string any more. It is for loops of one's own around
a vision model, for Gymnasium's vector environments, and for encoders that are trained on both.
"""

from __future__ import annotations

import io
from typing import Any

import gymnasium
import numpy as np

from agentkit.envs.contract import AnyText, Screen, TextEnv, offers, whole_number
from agentkit.errors import ConfigError, require

CHANNELS = 3
"""Red, green, blue."""


class ImageText(gymnasium.ObservationWrapper[dict[str, Any], str, str]):
    """`{"text": str, "image": uint8 [height, width, 3]}` for environments that offer `Screen`.

    Every observation takes one screenshot. Where actions point at pixels (`click at 80 120`), those are pixels of
    the real screen: give no `size` of your own there.
    """

    def __init__(self, env: TextEnv, *, size: tuple[int, int] | None = None) -> None:
        """Wrap `env`.

        Args:
            env: an environment with screenshots.
            size: height and width of the images in pixels; a screenshot of another size is scaled to it. None takes
                the size of the first screenshot, for which `env` is reset once.

        Raises:
            ConfigError: `env` offers no screenshots, or `size` is no pair of positive whole numbers.
            MissingExtraError: pillow is not installed.
        """
        super().__init__(env)
        self._images = require("PIL.Image")
        if not offers(env, Screen):
            raise ConfigError(f"{env} has no screenshots (agentkit.envs.Screen), so there is no image to show")
        if size is None:
            env.reset(seed=0)
            height, width, _ = self._decoded(None).shape
        else:
            if not isinstance(size, (tuple, list)) or len(size) != 2:
                raise ConfigError(f"size must be (height, width) in pixels, got {size!r}")
            height, width = whole_number("height", size[0]), whole_number("width", size[1])
        self.size = (height, width)
        image = gymnasium.spaces.Box(0, 255, (height, width, CHANNELS), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"text": AnyText(), "image": image})

    def observation(self, observation: str) -> dict[str, Any]:
        """The text and what the screen shows now."""
        return {"text": observation, "image": self._decoded(self.size)}

    def _decoded(self, size: tuple[int, int] | None) -> np.ndarray:
        """The screenshot as uint8 [height, width, 3], scaled if it is not of `size`."""
        with self._images.open(io.BytesIO(self.env.screenshot()), formats=["PNG"]) as png:  # type: ignore[attr-defined]
            image = png.convert("RGB")
        if size is not None and (image.height, image.width) != size:
            image = image.resize((size[1], size[0]))
        return np.asarray(image)
