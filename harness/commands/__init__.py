"""One file per command; what they share (arguments, errors, console) is in `entry`."""

import os
import sys

# `python -m harness` puts the working directory first on the import path, the `harness` command does not. Whatever a
# command imports from here on must not come from there: it may be a folder that somebody sent (P29). Commands that run
# the user's own classes add it again, by `find_own_classes`.
_run = getattr(sys.modules.get("__main__"), "__spec__", None)
if _run is not None and _run.name.partition(".")[0] == "harness" and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]
