# SPDX-License-Identifier: MIT
SUMMARY = "Files with awkward names and a link, deployed"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"

# "subdir" puts the files into S on every release.
SRC_URI = "file://notes.txt;subdir=${BP}"

INHIBIT_DEFAULT_DEPS = "1"
PACKAGE_ARCH = "${MACHINE_ARCH}"

# Nothing is compiled, patched or packaged, so that no native tool has to be built first.
PATCHDEPENDENCY = ""
PATCHDEPENDENCY:remove = "patch-replacement-native:do_populate_sysroot"
deltask do_configure
deltask do_compile
deltask do_install
deltask do_populate_sysroot

inherit deploy nopackages

do_deploy() {
    install -d "${DEPLOYDIR}/fixture/sub directory"
    install -m 0644 ${S}/notes.txt ${DEPLOYDIR}/fixture/notes-1.0.txt
    ln -sf notes-1.0.txt ${DEPLOYDIR}/fixture/notes.txt
    install -m 0644 ${S}/notes.txt "${DEPLOYDIR}/fixture/sub directory/a+b:c #1.txt"
}
addtask deploy after do_unpack before do_build
