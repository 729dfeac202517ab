"""Whether KVM runs a guest: a virtual processor executes one instruction. Written by build-agent.

Prints `kvm works`, or `kvm fails WHY`. Opening /dev/kvm proves nothing: in a container it may be there without the
right to use it, and on a virtual machine without a processor that can.
"""

import ctypes
import fcntl
import mmap
import os
import platform
import struct

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_RUN = 0xAE80
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_SET_REGS = 0x4090AE82
KVM_ARM_PREFERRED_TARGET = 0x8020AEAF
KVM_ARM_VCPU_INIT = 0x4020AEAE
EXIT_HLT, EXIT_MMIO = 5, 6


def run():
    machine = platform.machine()
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    if fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0) != 12:
        return "its API is not version 12"
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    memory = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("=IIQQQ", 0, 0, 0, 4096, address))
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    size = fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)
    shared = mmap.mmap(vcpu, size)
    if machine in ("x86_64", "i686"):
        memory[0:1] = b"\xf4"  # hlt
        sregs = bytearray(fcntl.ioctl(vcpu, KVM_GET_SREGS, bytes(312)))
        # The code segment: base (8 bytes) and selector (2 bytes at 12), both 0.
        sregs[0:8] = bytes(8)
        sregs[12:14] = bytes(2)
        fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(sregs))
        # 16 registers, the instruction pointer and the flags, of which bit 1 is always set.
        fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("=16QQQ", *[0] * 16, 0, 2))
        wanted = EXIT_HLT
    elif machine == "aarch64":
        # mov x1, #0x10000000; str x0, [x1]: a write to where there is no memory.
        memory[0:8] = struct.pack("<II", 0xD2A20001, 0xF9000020)
        target = fcntl.ioctl(vm, KVM_ARM_PREFERRED_TARGET, bytes(32))
        fcntl.ioctl(vcpu, KVM_ARM_VCPU_INIT, target)
        wanted = EXIT_MMIO
    else:
        return "there is no test for " + machine
    fcntl.ioctl(vcpu, KVM_RUN, 0)
    reason = struct.unpack_from("=I", shared, 8)[0]
    return None if reason == wanted else "the guest ended with reason %d" % reason


try:
    trouble = run()
except Exception as error:
    trouble = str(error)
print("kvm works" if trouble is None else "kvm fails " + trouble.replace("\n", " "))
