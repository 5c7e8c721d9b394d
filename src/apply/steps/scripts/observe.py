# Says what is on the host, in one go; changes nothing.
import json, os, pwd, subprocess, sys

request = json.load(sys.stdin)

def stat_of(path):
    try:
        s = os.stat(path)
    except OSError:
        return None
    return "%d %d %d" % (s.st_size, s.st_mtime_ns, s.st_ino)

def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""

try:
    lineage = json.loads(read(request["marker"])).get("lineage")
except ValueError:
    lineage = None
services = {}
units = request["services"]
if units:
    keys = "Id,ActiveState,SubState,UnitFileState"
    shown = subprocess.run(["systemctl", "show", "--no-pager", "-p", keys, "--"] + [unit + ".service" for unit in units],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode(errors="replace")
    # One paragraph a unit, in the order asked: Id is another's name where a unit is an alias.
    for unit, block in zip(units, shown.strip("\n").split("\n\n")):
        seen = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        services[unit] = {
            "active": seen.get("ActiveState", ""),
            "sub": seen.get("SubState", ""),
            "enabled": seen.get("UnitFileState", ""),
            "unit_file": stat_of(os.path.join(request["units"], unit + ".service")),
        }
try:
    home = pwd.getpwnam(request["user"]).pw_dir
except KeyError:
    home = "/"
try:
    secrets = sorted(os.listdir(request["secrets"]))
except OSError:
    secrets = []
json.dump({
    "lineage": lineage,
    "boot_id": read("/proc/sys/kernel/random/boot_id").strip(),
    "services": services,
    "files": {path: stat_of(os.path.join(home, path)) for path in request["files"]},
    "secrets": [name for name in secrets if not name.endswith(".lane-new")],
    "sources": [path for path in request["sources"] if os.path.isdir(path)],
}, sys.stdout)
