# SPDX-License-Identifier: MIT
SUMMARY = "The tests of an image, without an image"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"

GUEST ?= "/nonexistent"
GUEST_PTESTS ?= "good"

INHIBIT_DEFAULT_DEPS = "1"
PATCHDEPENDENCY = ""
PATCHDEPENDENCY:remove = "patch-replacement-native:do_populate_sysroot"
PACKAGE_ARCH = "${MACHINE_ARCH}"
IMAGE_BASENAME = "${PN}"
IMAGE_NAME = "${PN}-${MACHINE}"
IMAGE_LINK_NAME = "${PN}-${MACHINE}"
IMAGE_FSTYPES = "ext4"
# The kernel's console, and the one on which OE-Core logs in.
SERIAL_CONSOLES = "115200;ttyS0 115200;ttyS1"

inherit testimage testexport nopackages
do_testimage[depends] = ""
do_testexport[depends] = ""

# `runqemu`
PATH:prepend = "${THISDIR}/${BPN}/bin:"
export GUEST
export GUEST_PTESTS

deltask do_fetch
deltask do_unpack
deltask do_patch
deltask do_configure
deltask do_compile
deltask do_install
deltask do_populate_lic
deltask do_populate_sysroot
deltask do_recipe_qa

# What a real image leaves for its tests.
python do_facts() {
    import json, os, shutil
    deploy = d.getVar("DEPLOY_DIR_IMAGE")
    bb.utils.mkdirhier(deploy)
    base = os.path.join(deploy, d.getVar("IMAGE_LINK_NAME"))
    names = "MACHINE MLPREFIX DISTRO DISTRO_FEATURES IMAGE_BASENAME IMAGE_FEATURES IMAGE_PKGTYPE TOPDIR TMPDIR WORKDIR TEST_LOG_DIR libdir"
    facts = {name: d.getVar(name) or "" for name in names.split()}
    with open(base + ".testdata.json", "w") as file:
        json.dump(facts, file)
    packages = ["busybox", "dropbear", "ptest-runner"] + [name + "-ptest" for name in d.getVar("GUEST_PTESTS").split()]
    with open(base + ".manifest", "w") as file:
        file.write("".join("%s x86_64 1.0\n" % name for name in packages))
    open(base + ".ext4", "w").close()
    # What QEMU needs for a guest that the agent or runqemu starts. QEMU is the one of this machine.
    guest = d.getVar("GUEST")
    if os.path.isdir(guest):
        shutil.copy(os.path.join(guest, "vmlinuz"), os.path.join(deploy, "bzImage"))
        shutil.copy(os.path.join(guest, "initrd.gz"), base + ".cpio.gz")
        with open(base + ".qemuboot.conf", "w") as file:
            file.write("[config_bsp]\nkernel_imagetype = bzImage\nqb_cpu = -cpu max -machine q35\n"
                "qb_cpu_kvm = -cpu host -machine q35\n"
                "qb_default_fstype = cpio.gz\nqb_mem = -m 256\nqb_system_name = qemu-system-x86_64\n"
                "qb_network_device = -device virtio-net-pci,netdev=net0,mac=@MAC@\n"
                "machine = %s\nimage_link_name = %s\nstaging_dir_native = /\nstaging_bindir_native = /usr/bin\n"
                "serial_consoles = 115200;ttyS0\n" % (d.getVar("MACHINE"), d.getVar("IMAGE_LINK_NAME")))
    python = os.path.join(d.getVar("WORKDIR"), "recipe-sysroot-native/usr/lib/qemu-python")
    shutil.rmtree(python, ignore_errors=True)
    bb.utils.mkdirhier(python)
    shutil.copytree(os.path.join(d.getVar("THISDIR"), d.getVar("BPN"), "qmp"), os.path.join(python, "qmp"))
}
do_facts[nostamp] = "1"
addtask facts before do_build
