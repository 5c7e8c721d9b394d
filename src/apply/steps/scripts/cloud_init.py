# Looks how far cloud-init is; changes nothing. Believes result file and unit states, not `cloud-init status`.
import json, os, re, subprocess, sys

request = json.load(sys.stdin)
run_folder, log, output = request["run"], request["log"], request["output"]
UNITS = ["cloud-init-main.service", "cloud-init-local.service", "cloud-init-network.service", "cloud-init.service",
         "cloud-config.service", "cloud-final.service"]

def load(path):
    try:
        with open(path) as f:
            return json.load(f)
    except (OSError, ValueError):
        return None

def system(*command):
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode(errors="replace")
    except OSError:
        return ""

def tail(path, count, keep=None):
    try:
        with open(path, errors="replace") as f:
            lines = [line.rstrip() for line in f if keep is None or keep(line)]
    except OSError:
        return []
    return lines[-count:]

units = {}
shown = system("systemctl", "show", "--no-pager", "-p", "LoadState,ActiveState,SubState,Result,ExecMainExitTimestampMonotonic", "--", *UNITS)
for unit, block in zip(UNITS, shown.strip("\n").split("\n\n")):
    seen = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    if seen.get("LoadState") == "loaded":
        units[unit] = seen
failed = sorted(unit for unit, seen in units.items() if seen.get("ActiveState") == "failed")
working = any(seen.get("ActiveState") in ("activating", "reloading") for seen in units.values())
jobs = [line for line in system("systemctl", "list-jobs", "--no-legend", "--plain").splitlines() if "cloud-" in line]
final = units.get("cloud-final.service", {})
ended = final.get("ActiveState") in ("active", "failed") or (
    final.get("ActiveState") == "inactive" and final.get("ExecMainExitTimestampMonotonic", "0") not in ("", "0"))

result = load(os.path.join(run_folder, "result.json"))
status = load(os.path.join(run_folder, "status.json")) or load(os.path.join(request["data"], "status.json")) or {}
v1 = status.get("v1", {})
stage = v1.get("stage")
errors, warnings = [], []
for key, value in v1.items():
    if isinstance(value, dict):
        errors += ["%s: %s" % (key, text) for text in value.get("errors") or []]
        for level, texts in (value.get("recoverable_errors") or {}).items():
            warnings += ["%s: %s: %s" % (key, level.lower(), text) for text in texts]
if result is not None:
    known = "\n".join(errors)
    errors += [text for text in result.get("v1", {}).get("errors") or [] if text not in known]
for unit in failed:
    errors.append("%s: %s" % (unit, units[unit].get("Result") or "failed"))
done = result is not None and ended

# Modules are named by `('scripts_user', RuntimeError(…))` in the result, by 'Running module X (…) failed' in the log.
modules = []
if errors:
    complaints = tail(log, 200, lambda line: " failed" in line and "module" in line.lower())
    for text in errors + complaints:
        for pattern in (r"\(\s*'([A-Za-z_-]+)'\s*,", r"[Rr]unning module ([A-Za-z_-]+)", r"Failed (?:to run|running|loading) module ([A-Za-z_-]+)",
                        r"Failed to run (bootcmd|runcmd)", r"Failed running (\S+)"):
            modules += [module for module in re.findall(pattern, text) if module not in modules]

chunk, offset = "", request["offset"]
try:
    with open(output, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        if size < offset:
            offset = 0
        f.seek(offset)
        data = f.read(65536)
        # Whole lines only, so that none is shown in two halves.
        cut = len(data) if done and offset + len(data) >= size else data.rfind(b"\n") + 1
        chunk, offset = data[:cut].decode(errors="replace"), offset + cut
except OSError:
    pass

json.dump({
    "installed": bool(units),
    "disabled": os.path.exists(os.path.join(run_folder, "disabled")),
    "done": done,
    "stuck": not done and bool(failed) and not working and not jobs,
    "stage": stage,
    "errors": errors,
    "warnings": warnings,
    "modules": modules,
    "log": tail(log, 15, lambda line: re.search(r"WARNING|ERROR|CRITICAL|Traceback|failed", line)) if errors else [],
    "tail": tail(output, 20) if errors else [],
    "chunk": chunk,
    "offset": offset,
}, sys.stdout)
