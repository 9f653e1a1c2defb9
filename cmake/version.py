"""The version of a build and the Pythons that it serves.

THRIFTY_LOCAL_VERSION=cu130 makes the version 0.1.0+cu130. With THRIFTY_PYTHONS (see pythons.py) the
metadata allow exactly the Pythons that the wheel holds a module for.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import pythons

VERSION = "0.1.0"


def dynamic_metadata(settings: dict, project: dict) -> dict[str, str]:
    local = os.environ.get("THRIFTY_LOCAL_VERSION", "")
    wanted = os.environ.get("THRIFTY_PYTHONS", "")
    return {
        "version": f"{VERSION}+{local}" if local else VERSION,
        "requires-python": pythons.requires_python(pythons.found(wanted)) if wanted else ">=3.10",
    }
