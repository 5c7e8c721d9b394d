# Installs a build's outputs: each is old or new, never torn; what is the same already keeps its inode.
import hashlib, json, os, pwd, shutil, stat, sys

def say(reply):
    json.dump(reply, sys.stdout)
    sys.exit(0)

def stat_of(path):
    s = os.stat(path)
    return "%d %d %d" % (s.st_size, s.st_mtime_ns, s.st_ino)

def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()

request = json.load(sys.stdin)
folder = request["folder"]
if folder is None:
    try:
        folder = pwd.getpwnam(request["user"]).pw_dir
    except KeyError:
        say({"failed": "user %s is unknown on the host" % request["user"]})
results = []
for src, dst in sorted(request["install"].items()):
    full = os.path.join(folder, src)
    if not os.path.isfile(full):
        say({"failed": "build %s left no %s" % (request["build"], full)})
    if os.path.isdir(dst):
        say({"failed": "%s is a folder; install wants the file's whole path" % dst})
    try:
        sha = digest(full)
        mode = 0o755 if os.stat(full).st_mode & 0o111 else 0o644
        state = "changed"
        if os.path.isfile(dst) and not os.path.islink(dst) and digest(dst) == sha:
            state = "same"
            if stat.S_IMODE(os.stat(dst).st_mode) != mode:
                os.chmod(dst, mode)
        else:
            os.makedirs(os.path.dirname(dst), exist_ok=True)
            new = dst + ".lane-new"
            if os.path.lexists(new):
                os.unlink(new)
            shutil.copyfile(full, new)
            os.chmod(new, mode)
            with open(new, "rb") as f:
                os.fsync(f.fileno())
            os.rename(new, dst)
    except OSError as error:
        say({"failed": "%s cannot be installed as %s: %s" % (full, dst, error.strerror)})
    results.append({"dst": dst, "state": state, "sha256": sha, "stat": stat_of(dst), "source": full, "source_stat": stat_of(full)})
say({"results": results})
