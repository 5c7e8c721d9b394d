# Makes the target folder for the login user and deletes what an earlier sync brought and nobody wants any more.
# Arguments: lock name, target folder, login user. Standard input: paths below the target, each ended by NUL.
set -eu
locks=${LANE_HOST_ROOT:-}/run/lane/locks
mkdir -p "$locks"
lock=$locks/$1
# The login user's rsync takes the same lock, for which reading is enough.
: >>"$lock" && chmod 0644 "$lock"
shift
exec flock -w 600 "$lock" python3 -c '
import os, pwd, sys

target, user = sys.argv[1:]
if not target.startswith("/") or ".." in target.split("/"):
    sys.exit(f"{target!r} is not an absolute folder")
entry = pwd.getpwnam(user)
missing = []
at = os.path.normpath(target)
while not os.path.lexists(at):
    missing.append(at)
    at = os.path.dirname(at)
for path in reversed(missing):
    os.mkdir(path, 0o755)
    os.chown(path, entry.pw_uid, entry.pw_gid)

# What is deleted is deleted with the rights of the login user.
if os.getuid() == 0:
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
os.chdir(target)
deleted = 0
for raw in sys.stdin.buffer.read().split(b"\0"):
    if not raw:
        continue
    parts = raw.split(b"/")
    if raw.startswith(b"/") or b".." in parts or b"" in parts or b"." in parts:
        sys.exit(f"refusing to delete {os.fsdecode(raw)!r}: not a plain relative path")
    parents = [b"/".join(parts[:n]) for n in range(1, len(parts))]
    # A folder that has become a symlink leads out of what was synced.
    if any(os.path.islink(parent) for parent in parents):
        continue
    try:
        os.unlink(raw)
        deleted += 1
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        pass
    for parent in reversed(parents):
        try:
            os.rmdir(parent)
        except OSError:
            break
print(deleted)
' "$@"
