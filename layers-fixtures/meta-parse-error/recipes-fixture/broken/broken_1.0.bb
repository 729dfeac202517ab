# SPDX-License-Identifier: MIT
SUMMARY = "A recipe that BitBake cannot read"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"

this line is not in BitBake's language
