# Puts a seccomp filter on a child process and checks that it denies the one call, and nothing else.
import ctypes, errno, json, os, platform, struct, sys

MACHINES = {"x86_64": (0xC000003E, 63, 317), "aarch64": (0xC00000B7, 160, 277)}  # AUDIT_ARCH, uname, seccomp
PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER = 38, 1
RET_ALLOW, RET_ERRNO, RET_KILL = 0x7FFF0000, 0x00050000, 0x80000000
libc = ctypes.CDLL(None, use_errno=True)

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

def inside():
    """Runs in the child; returns what it found as a dict."""
    arch, uname, seccomp = MACHINES[platform.machine()]
    buffer = ctypes.create_string_buffer(4096)
    if libc.syscall(ctypes.c_long(uname), buffer) != 0:
        return {"failed": "uname fails before any filter is there"}
    code = [
        (0x20, 0, 0, 4), (0x15, 1, 0, arch), (0x06, 0, 0, RET_KILL),       # another architecture's call: kill
        (0x20, 0, 0, 0), (0x15, 0, 1, uname), (0x06, 0, 0, RET_ERRNO | errno.EPERM), (0x06, 0, 0, RET_ALLOW),
    ]
    raw = b"".join(struct.pack("=HBBI", *line) for line in code)
    text = ctypes.create_string_buffer(raw, len(raw))
    program = Program(len(code), ctypes.cast(text, ctypes.c_void_p))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return {"failed": "PR_SET_NO_NEW_PRIVS: " + os.strerror(ctypes.get_errno())}
    if libc.syscall(ctypes.c_long(seccomp), SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(program)) != 0:
        return {"failed": "the kernel takes no seccomp filter: " + os.strerror(ctypes.get_errno())}
    ctypes.set_errno(0)
    if libc.syscall(ctypes.c_long(uname), buffer) == 0:
        return {"failed": "the filter is installed, but the denied call (uname) still works"}
    if ctypes.get_errno() != errno.EPERM:
        return {"failed": "the denied call (uname) failed with %s, not EPERM" % os.strerror(ctypes.get_errno())}
    if os.getppid() <= 0 or os.stat("/").st_mode == 0:
        return {"failed": "an allowed call fails under the filter"}
    return {"evidence": "uname denied with EPERM, other calls allowed"}

if platform.machine() not in MACHINES:
    json.dump({"failed": "no seccomp numbers are known for %s" % platform.machine()}, sys.stdout)
    sys.exit(0)
receive, send = os.pipe()
child = os.fork()
if child == 0:
    try:
        found = inside()
    except BaseException as error:
        found = {"failed": repr(error)}
    os.write(send, json.dumps(found).encode())
    os._exit(0)
os.close(send)
text = os.read(receive, 65536)
_, status = os.waitpid(child, 0)
if not text:
    text = json.dumps({"failed": "the filtered child died with wait status %d" % status}).encode()
elif os.uname().sysname != "Linux":
    text = json.dumps({"failed": "the filter reached beyond the child"}).encode()
sys.stdout.write(text.decode())
