"""The version of a build; THRIFTY_LOCAL_VERSION=cu130 makes it 0.1.0+cu130."""

import os

VERSION = "0.1.0"


def dynamic_metadata(settings: dict, project: dict) -> dict[str, str]:
    local = os.environ.get("THRIFTY_LOCAL_VERSION", "")
    return {"version": f"{VERSION}+{local}" if local else VERSION}
