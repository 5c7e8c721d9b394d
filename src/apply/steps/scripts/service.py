# Brings one service to what the spec says and watches that it stays up; restarts it only if something it runs on changed.
#
# What the running instance was started with is kept in a note beside the secrets. The note is removed before anything is
# touched and written after the service proved stable, so that a crash in between ends in a restart, not in a stale process.
import hashlib, json, os, re, subprocess, sys, time

request = json.load(sys.stdin)
name = request["name"]
unit = name + ".service"
unit_path = os.path.join(request["units"], unit)
dropin = os.path.join(request["units"], unit + ".d", "50-lane.conf")
env_path = os.path.join(request["env_folder"], name)
note_path = os.path.join(request["notes"], name + ".json")
started = time.monotonic()
deadline = started + request["timeout"]

def say(reply):
    json.dump(reply, sys.stdout)
    sys.exit(0)

def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode(errors="replace").strip()

def show():
    keys = "ActiveState,SubState,Result,InvocationID,NRestarts,UnitFileState,NeedDaemonReload,Type"
    _, text = run("systemctl", "show", "--no-pager", "-p", keys, unit)
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

def fail(what, seen, invocation):
    lines = [what]
    _, status = run("systemctl", "status", "--no-pager", "--full", "--lines=0", unit)
    lines.append(status)
    journal = ""
    if invocation:
        _, journal = run("journalctl", "--no-pager", "--quiet", "-o", "short-precise", "-n", "30",
                         "_SYSTEMD_INVOCATION_ID=" + invocation, "+", "INVOCATION_ID=" + invocation)
    if not journal:
        _, journal = run("journalctl", "--no-pager", "--quiet", "-o", "short-precise", "-n", "30", "-u", unit)
    lines.append("its journal:\n" + "\n".join("  " + line for line in journal.splitlines()[-30:]))
    say({"failed": "\n".join(lines)})

def write(path, text, mode):
    data = text.encode()
    try:
        with open(path, "rb") as f:
            if f.read() == data and os.stat(path).st_mode & 0o777 == mode:
                return False
    except FileNotFoundError:
        pass
    os.makedirs(os.path.dirname(path), exist_ok=True)
    new = path + ".lane-new"
    if os.path.lexists(new):
        os.unlink(new)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as f:
        f.write(data)
        f.flush()
        os.fchmod(f.fileno(), mode)
        os.fsync(f.fileno())
    os.rename(new, path)
    return True

def remove(path):
    try:
        os.unlink(path)
        return True
    except FileNotFoundError:
        return False

def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()

def stat_of(path):
    try:
        s = os.stat(path)
    except OSError:
        return None
    return "%d %d %d" % (s.st_size, s.st_mtime_ns, s.st_ino)

def load_note():
    try:
        with open(note_path) as f:
            return json.load(f)
    except (OSError, ValueError):
        return None

def programs(text):
    text = re.sub(r"\\\n\s*", " ", text)
    words = []
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip().startswith("ExecStart"):
            words += [word.strip("\"'").lstrip("-@:+!|") for word in value.split()]
    return sorted({word for word in words if word.startswith("/") and os.path.isfile(word)})

if request.get("remove"):
    run("systemctl", "disable", "--now", unit)
    gone = [remove(path) for path in (unit_path, dropin, env_path, note_path)]
    try:
        os.rmdir(os.path.dirname(dropin))
    except OSError:
        pass
    run("systemctl", "daemon-reload")
    run("systemctl", "reset-failed", unit)
    say({"state": "removed" if any(gone) else "was not there", "stat": "", "reasons": []})

def quoted(value):
    return '"' + re.sub(r'(["\\`$])', r"\\\1", value) + '"'

before = load_note()
env_text = "".join("%s=%s\n" % (key, quoted(value)) for key, value in sorted(request["env"].items()))
now = {
    "unit": hashlib.sha256(request["unit"].encode()).hexdigest(),
    "env": hashlib.sha256(env_text.encode()).hexdigest(),
    "programs": {path: digest(path) for path in programs(request["unit"])},
    "files": {path: stat_of(path) for path in request["files"]},
}
seen = show()
reasons = []
if before is None:
    reasons.append("first start")
else:
    if before["unit"] != now["unit"]:
        reasons.append("its unit changed")
    if before["env"] != now["env"]:
        reasons.append("its environment changed")
    for kind in ("programs", "files"):
        for path in sorted(set(before[kind]) | set(now[kind])):
            if before[kind].get(path) != now[kind].get(path):
                reasons.append("%s changed" % path)
if seen.get("ActiveState") != "active":
    reasons.append("it was %s" % (seen.get("ActiveState") or "unknown"))
if reasons:
    remove(note_path)

reload = write(unit_path, request["unit"], 0o644)
if request["env"]:
    os.makedirs(request["env_folder"], exist_ok=True)
    write(env_path, env_text, 0o600)
    reload |= write(dropin, "[Service]\nEnvironmentFile=%s\n" % env_path, 0o644)
else:
    remove(env_path)
    reload |= remove(dropin)
if reload or seen.get("NeedDaemonReload") == "yes":
    code, text = run("systemctl", "daemon-reload")
    if code:
        say({"failed": "systemctl daemon-reload: " + text})
if re.search(r"(?m)^\[Install\]", request["unit"]) and seen.get("UnitFileState") != "enabled":
    code, text = run("systemctl", "enable", unit)
    if code:
        say({"failed": "systemctl enable %s: %s" % (unit, text)})

watch = bool(reasons)
if reasons:
    run("systemctl", "reset-failed", unit)
    code, text = run("systemctl", "restart", unit)
    after = show()
    if code:
        fail("%s did not start: %s" % (unit, text.splitlines()[0] if text else "exit %d" % code), after, after.get("InvocationID"))
elif before.get("invocation") != seen.get("InvocationID") or before.get("restarts") != seen.get("NRestarts"):
    # Somebody else restarted it, or it falls over again and again.
    watch = True

first = show()
calm_since = time.monotonic()
while True:
    seen = show()
    state = seen.get("ActiveState")
    if state == "active":
        if (seen.get("InvocationID"), seen.get("NRestarts")) != (first.get("InvocationID"), first.get("NRestarts")):
            fail("%s did not stay up: it was restarted" % unit, seen, first.get("InvocationID"))
        if not watch or time.monotonic() - calm_since >= request["stable_for"]:
            break
    elif state in ("activating", "reloading") and seen.get("SubState") != "auto-restart":
        calm_since = time.monotonic()
    else:
        fail("%s is %s (%s), not active" % (unit, state, seen.get("Result") or seen.get("SubState")), seen, first.get("InvocationID"))
    if time.monotonic() >= deadline:
        fail("%s is still %s after %d s" % (unit, state, request["timeout"]), seen, seen.get("InvocationID"))
    time.sleep(min(0.1, max(0.02, request["stable_for"] / 10)))

now["invocation"], now["restarts"] = seen.get("InvocationID"), seen.get("NRestarts")
os.makedirs(request["notes"], exist_ok=True)
os.chmod(request["notes"], 0o700)
if now != before:
    write(note_path, json.dumps(now), 0o600)
say({"state": "restarted" if reasons else "unchanged", "reasons": reasons, "stat": stat_of(unit_path)})
