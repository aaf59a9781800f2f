"""Reads a JSON list of texts, and prints what `packaging` makes of each: null if it is no version."""

import json
import re
import sys

from packaging.version import VERSION_PATTERN, InvalidVersion, Version

PATTERN = re.compile(rf"\s*{VERSION_PATTERN}\s*", re.VERBOSE | re.IGNORECASE)


def parsed(text):
    try:
        return Version(text)
    except InvalidVersion:
        return None


def without_local(version):
    return Version(version.public)


def described(text, version, ranks):
    return {
        "rank": ranks[without_local(version)],
        "bare_number": PATTERN.fullmatch(text)["post_n1"] is not None,
        "development": version.is_devrelease or version.local is not None,
        "beyond_semver": bool(version.epoch or version.is_postrelease or any(version.release[3:])),
    }


texts = json.load(sys.stdin)
versions = [parsed(text) for text in texts]
ascending = sorted({without_local(version) for version in versions if version})
ranks = {version: rank for rank, version in enumerate(ascending)}
json.dump([v and described(t, v, ranks) for t, v in zip(texts, versions)], sys.stdout)
