# Finds out how far /dev/kvm really works, level by level, each with its evidence; leaves nothing behind.
import ctypes, errno, fcntl, json, mmap, os, platform, struct, sys

DEVICE = sys.argv[1] if len(sys.argv) > 1 else "/dev/kvm"
KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE04
KVM_CREATE_VCPU, KVM_RUN = 0xAE41, 0xAE80
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_GET_REGS, KVM_SET_REGS = 0x8090AE81, 0x4090AE82
KVM_GET_SREGS, KVM_SET_SREGS = 0x8138AE83, 0x4138AE84
EXIT_IO, EXIT_HLT = 2, 5
reply = {"levels": [], "level": "none", "user": os.geteuid(), "machine": platform.machine(), "denied": False}

def reached(level, evidence):
    reply["levels"].append({"level": level, "evidence": evidence})
    reply["level"] = level

def end(why=None):
    reply["why"] = why
    json.dump(reply, sys.stdout)
    sys.exit(0)

def said(what, error):
    return "%s: %s (%s)" % (what, os.strerror(error.errno), errno.errorcode.get(error.errno, error.errno))

try:
    node = os.stat(DEVICE)
except OSError as error:
    end(said("stat " + DEVICE, error))
if os.major(node.st_rdev) == 0:
    end("%s is no device" % DEVICE)
reached("node", "%s %d:%d mode %o" % (DEVICE, os.major(node.st_rdev), os.minor(node.st_rdev), node.st_mode & 0o777))
try:
    kvm = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
except OSError as error:
    reply["denied"] = error.errno in (errno.EACCES, errno.EPERM)
    end(said("open " + DEVICE, error))
reached("opens", "open for reading and writing as uid %d" % os.geteuid())
try:
    version = fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0)
    if version != 12:
        end("its API version is %d, not 12" % version)
    reached("api version", "12")
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    reached("vm made", "fd %d" % vm)
    step = "KVM_CREATE_VCPU"
    size = fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)
    if platform.machine() != "x86_64":
        vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
        reply["levels"][-1]["evidence"] += ", vcpu fd %d; no guest is run on %s" % (vcpu, platform.machine())
        end()
    memory = mmap.mmap(-1, 0x1000, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    # mov dx,0x3f8; mov al,40; add al,2; out dx,al; hlt
    memory[:8] = bytes([0xBA, 0xF8, 0x03, 0xB0, 40, 0x04, 2, 0xEE])
    memory[8:9] = b"\xf4"
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    step = "KVM_SET_USER_MEMORY_REGION"
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("=IIQQQ", 0, 0, 0x1000, 0x1000, address))
    step = "KVM_CREATE_VCPU"
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    page = mmap.mmap(vcpu, size)
    step = "KVM_SET_SREGS"
    sregs = bytearray(312)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, sregs)
    # cs is the first segment: base and selector 0, so that execution starts at ip.
    struct.pack_into("=Q", sregs, 0, 0)
    struct.pack_into("=H", sregs, 12, 0)
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(sregs))
    step = "KVM_SET_REGS"
    regs = bytearray(144)
    struct.pack_into("=QQ", regs, 128, 0x1000, 2)
    fcntl.ioctl(vcpu, KVM_SET_REGS, bytes(regs))
    step = "KVM_RUN"
    wrote = []
    for _ in range(8):
        fcntl.ioctl(vcpu, KVM_RUN, 0)
        reason = struct.unpack_from("=I", page, 8)[0]
        if reason == EXIT_IO:
            direction, width, port, count, offset = struct.unpack_from("=BBHIQ", page, 32)
            if direction == 1 and port == 0x3F8:
                wrote.append(page[offset])
        elif reason == EXIT_HLT:
            break
        else:
            end("the guest ended with exit reason %d" % reason)
    if wrote != [42]:
        end("the guest wrote %r to port 0x3f8, not [42]" % wrote)
    reached("guest ran", "40 + 2 = 42 on port 0x3f8")
except OSError as error:
    end(said({"vm made": locals().get("step", "KVM_CREATE_VCPU"), "api version": "KVM_CREATE_VM"}.get(reply["level"], "KVM_GET_API_VERSION"), error))
end()
