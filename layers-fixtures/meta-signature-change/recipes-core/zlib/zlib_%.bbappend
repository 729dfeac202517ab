# SPDX-License-Identifier: MIT
# Changes the signature of zlib for everybody who merely adds this layer.
do_configure:prepend() {
    bbnote "changed by a layer that was only added"
}
