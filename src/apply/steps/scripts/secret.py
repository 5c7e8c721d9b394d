# Makes a secret if it is not there; its value stays in its file and is never written anywhere else.
import base64, json, os, secrets, sys

request = json.load(sys.stdin)
folder, name = request["folder"], request["name"]
os.makedirs(folder, exist_ok=True)
os.chmod(folder, 0o700)
path = os.path.join(folder, name)
if os.path.isfile(path) and os.path.getsize(path) > 0:
    os.chmod(path, 0o600)
    state = "same"
else:
    raw = secrets.token_bytes(request["bytes"])
    text = raw.hex() if request["generate"] == "hex" else base64.b64encode(raw).decode()
    new = path + ".lane-new"
    if os.path.lexists(new):
        os.unlink(new)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.rename(new, path)
    d = os.open(folder, os.O_RDONLY)
    os.fsync(d)
    os.close(d)
    state = "made"
json.dump({"state": state}, sys.stdout)
