"""Parts: the programs, libraries and packages that a desktop needs, and whether they are there."""

from __future__ import annotations

import shutil
from glob import glob

from agentkit.errors import AgentkitError, MissingPartError, lacking

PROGRAMS = {
    "Xvfb": "xvfb",
    "openbox": "openbox",
    "dbus-daemon": "dbus",
    "/usr/libexec/at-spi2-registryd": "at-spi2-core",
    "bwrap": "bubblewrap",
    "setpriv": "util-linux",
    "mousepad": "mousepad",
    "galculator": "galculator",
    "pcmanfm": "pcmanfm",
    "lxterminal": "lxterminal",
    "gnumeric": "gnumeric",
}
"""Program -> the Debian package that holds it."""
FILES = {
    "/usr/lib/*/gtk-2.0/modules/libatk-bridge.so": "libatk-adaptor",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf": "fonts-dejavu-core",
}
"""What else must be there: the file manager's accessibility, letters; and the Debian packages that hold it."""
INSTALL = "apt-get install --no-install-recommends " + " ".join((*PROGRAMS.values(), *FILES.values()))


def missing_part() -> AgentkitError | None:
    """The error for the first part that is not there, with the command that installs them all; None if none is."""
    if (error := lacking("jeepney", "Xlib", "PIL")) is not None:
        return error
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return MissingPartError(f"{program} is not installed; run: {INSTALL}")
    for pattern, package in FILES.items():
        if not glob(pattern):
            return MissingPartError(f"{package} is not installed; run: {INSTALL}")
    return None
