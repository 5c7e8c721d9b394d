# One look at an http, tcp, unix, systemd or command probe; the retrying is done from afar.
import http.client, json, os, socket, ssl, subprocess, sys, urllib.parse

request = json.load(sys.stdin)
kind, limit = request["kind"], request["limit"]

def say(ok, said):
    json.dump({"ok": ok, "said": said}, sys.stdout)
    sys.exit(0)

def short(text):
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:300] + "…"

def http_get():
    url = urllib.parse.urlsplit(request["url"])
    # Straight to the address, whatever proxies the host's environment names.
    if url.scheme == "https":
        link = http.client.HTTPSConnection(url.hostname, url.port, timeout=limit, context=ssl.create_default_context())
    else:
        link = http.client.HTTPConnection(url.hostname, url.port, timeout=limit)
    path = (url.path or "/") + ("?" + url.query if url.query else "")
    # As a browser would send it.
    path = "".join(c if c.isascii() else urllib.parse.quote(c) for c in path)
    link.request("GET", path, headers={"User-Agent": "lane-probe", "Accept": "*/*"})
    answer = link.getresponse()
    body = answer.read(1 << 20).decode(errors="replace")
    said = "%d %s: %s" % (answer.status, answer.reason, short(body))
    if answer.status != request["expect"]:
        say(False, "%s, not %d" % (said, request["expect"]))
    if request["contains"] is not None and request["contains"] not in body:
        say(False, "%s, without %r" % (said, request["contains"]))
    say(True, str(answer.status))

def tcp():
    host, _, port = request["address"].rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=limit).close()
    say(True, "connected")

def unix():
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(limit)
        s.connect(request["path"])
    say(True, "connected")

def systemd():
    unit = request["unit"]
    done = subprocess.run(["systemctl", "is-active", "--", unit], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = done.stdout.decode(errors="replace").strip()
    say(done.returncode == 0, said if done.returncode == 0 else "%s is %s" % (unit, said))

def command():
    env = dict(os.environ, **request["env"])
    folder = request["folder"] or os.path.expanduser("~")
    # Own process group, so that a timeout takes its children too.
    child = subprocess.Popen(["bash", "-lc", request["run"]], cwd=folder, env=env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        out, _ = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, 9)
        out, _ = child.communicate()
        say(False, "no end within %d s: %s" % (limit, short(out.decode(errors="replace")[-300:])))
    said = short(out.decode(errors="replace")[-300:])
    say(child.returncode == 0, said or "exit 0" if child.returncode == 0 else "exit %d: %s" % (child.returncode, said))

try:
    {"http": http_get, "tcp": tcp, "unix": unix, "systemd": systemd, "command": command}[kind]()
except (OSError, ValueError, http.client.HTTPException) as error:
    say(False, "%s: %s" % (type(error).__name__, error))
