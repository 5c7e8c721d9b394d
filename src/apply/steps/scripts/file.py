# Writes a rendered file, with the secrets put in here; the same content, mode and owner is left alone.
import grp, json, os, pwd, stat, sys

def say(reply):
    json.dump(reply, sys.stdout)
    sys.exit(0)

request = json.load(sys.stdin)
path, text = request["path"], request["text"]
for name, token in request["tokens"].items():
    try:
        with open(os.path.join(request["secrets"], name)) as f:
            text = text.replace(token, f.read().strip("\n"))
    except FileNotFoundError:
        say({"failed": "secret %s is not on the host" % name})
user, _, group = request["owner"].partition(":")
try:
    entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
except KeyError:
    say({"failed": "%s cannot be given to user %s: the host has none of that name" % (path, user)})
gid = entry.pw_gid
if group:
    try:
        gid = grp.getgrgid(int(group)).gr_gid if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        say({"failed": "%s cannot be given to group %s: the host has none of that name" % (path, group)})
data, mode = text.encode(), request["mode"]
if os.path.isdir(path):
    say({"failed": "%s is a folder on the host" % path})
try:
    state = "changed"
    if os.path.isfile(path) and not os.path.islink(path):
        s = os.stat(path)
        with open(path, "rb") as f:
            same = f.read() == data
        if same and (stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid) == (mode, entry.pw_uid, gid):
            state = "same"
    if state == "changed":
        os.makedirs(os.path.dirname(path), exist_ok=True)
        new = path + ".lane-new"
        if os.path.lexists(new):
            os.unlink(new)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            f.write(data)
            f.flush()
            os.fchown(f.fileno(), entry.pw_uid, gid)
            os.fchmod(f.fileno(), mode)
            os.fsync(f.fileno())
        os.rename(new, path)
    s = os.stat(path)
except OSError as error:
    say({"failed": "%s cannot be written: %s" % (path, error.strerror)})
say({"state": state, "stat": "%d %d %d" % (s.st_size, s.st_mtime_ns, s.st_ino)})
