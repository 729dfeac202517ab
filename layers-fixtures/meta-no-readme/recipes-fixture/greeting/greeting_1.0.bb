# SPDX-License-Identifier: MIT
SUMMARY = "A text file, installed"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"

# "subdir" puts the file into S on every release, whether sources are unpacked to WORKDIR or UNPACKDIR.
SRC_URI = "file://greeting.txt;subdir=${BP}"

inherit allarch

do_install() {
    install -D -m 0644 ${S}/greeting.txt ${D}${datadir}/fixture/greeting.txt
}

FILES:${PN} = "${datadir}/fixture"
