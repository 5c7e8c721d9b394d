# Removes files that lane put on the host; a folder is never one of them.
import json, os, sys

removed = []
for path in json.load(sys.stdin)["paths"]:
    if os.path.isdir(path) and not os.path.islink(path):
        continue
    try:
        os.unlink(path)
        removed.append(path)
    except FileNotFoundError:
        pass
json.dump({"removed": removed}, sys.stdout)
