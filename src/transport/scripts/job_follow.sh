# Writes a run's output from an offset on, as it comes, until the run has ended. Arguments: run, unit, offset.
exec python3 -c '
import os, select, subprocess, sys

run, unit, offset = sys.argv[1], sys.argv[2], int(sys.argv[3])
folder = os.environ.get("LANE_HOST_ROOT", "") + "/var/lib/lane/runs/" + run
out = 1
gone = select.poll()
gone.register(out, 0)

def active():
    asked = subprocess.run(["systemctl", "show", "--property=ActiveState", "--value", unit],
                           stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    # An answer that did not come says nothing.
    return asked.returncode != 0 or asked.stdout.strip() not in (b"inactive", b"failed", b"")

with open(folder + "/output", "rb", buffering=0) as output:
    output.seek(offset)
    turn = 0
    while True:
        turn += 1
        # First whether it has ended, then the rest of its output: nothing is missed.
        ended = os.path.exists(folder + "/exit") or (turn % 20 == 0 and not active())
        while True:
            chunk = output.read(65536)
            if not chunk:
                break
            while chunk:
                chunk = chunk[os.write(out, chunk):]
        if ended:
            break
        # The pause between two looks; it ends at once when nobody reads any more.
        if gone.poll(100):
            break
' "$@"
