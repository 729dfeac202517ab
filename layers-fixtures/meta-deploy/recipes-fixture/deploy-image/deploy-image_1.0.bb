# SPDX-License-Identifier: MIT
SUMMARY = "A sparse image, deployed"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"

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

# 16 MiB with data in the first and the last block only.
do_deploy() {
    truncate -s 16M ${DEPLOYDIR}/fixture-image.img
    printf 'begin' | dd of=${DEPLOYDIR}/fixture-image.img conv=notrunc
    printf 'end' | dd of=${DEPLOYDIR}/fixture-image.img conv=notrunc bs=4096 seek=4095
}
addtask deploy after do_unpack before do_build
