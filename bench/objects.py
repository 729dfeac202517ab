"""Trees of shared state objects with the names, sizes and ages that they have on real shares.

The same seed gives the same tree. Archives are whole zstd or gzip files, of bytes that do not
compress, so that a program which looks into them finds what it looks for.
"""

import os
import random
import struct
import time
import zlib

DAY = 86400
RECIPES = """acl alsa-lib attr base-files bash bluez5 boost busybox bzip2 ca-certificates cairo cmake coreutils
cryptsetup cups curl dbus dnsmasq dropbear e2fsprogs elfutils ethtool expat ffmpeg file flex fontconfig freetype
gawk gcc-runtime gcc-sanitizers gdb gdk-pixbuf gettext glib-2.0 glibc glibc-locale gmp gnutls gobject-introspection
grep gstreamer1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gtk+3 harfbuzz hostapd icu initscripts
iproute2 iptables iw json-c kbd kmod libarchive libcap libdrm libffi libgcc libgcrypt libinput libjpeg-turbo
libnl libpcap libpng libseccomp libsoup libssh2 libtool libusb1 libuv libwebsockets libx11 libxcb libxml2
libxslt linux-firmware linux-yocto llvm lua lz4 lzo m4 make mesa mosquitto ncurses net-tools nettle nodejs
nspr nss ofono openssh openssl opkg pango pciutils perl pixman pkgconfig popt procps protobuf pulseaudio
python3 python3-cryptography python3-jinja2 python3-numpy python3-setuptools qtbase qtdeclarative readline
rsync rust shadow sqlite3 strace sudo systemd sysvinit tar tcl tiff tzdata u-boot usbutils util-linux vim
vulkan-loader wayland weston wget wpa-supplicant xkeyboard-config xz zlib zstd aws-iot-device-sdk-cpp-v2
greengrass-bin amazon-kvs-producer-sdk-c amazon-ssm-agent corretto-17-bin firecracker-bin""".split()
# Machine or tune, its share of the tree, and the name of its target system.
ARCHITECTURES = [
    ("x86_64", 30, "x86_64-linux", "universal"),
    ("core2-64", 30, "core2-64-poky-linux", ""),
    ("cortexa57", 20, "cortexa57-poky-linux", ""),
    ("qemux86_64", 8, "qemux86_64-poky-linux", ""),
    ("qemuarm64", 6, "qemuarm64-poky-linux", ""),
    ("allarch", 6, "allarch-poky-linux", ""),
]
TASKS = """populate_sysroot package packagedata package_write_ipk package_qa populate_lic deploy create_spdx
create_runtime_spdx create_package_spdx deploy_source_date_epoch""".split()
SOURCE_TASKS = ["fetch", "unpack", "patch"]  # they have signatures, and no archive
VERSIONS = [("12", 92), ("11", 3), ("10", 2), ("14", 1), ("7", 1), ("3", 1)]
LONGEST = 254


def suffix(version):
    return ".tgz" if int(version) < 10 else ".tar.zst"


def name(fields, digest, task, version):
    """As sstate.bbclass (generate_sstatefn) makes it: what is too long loses from the fields in between."""
    tail = f"{digest}_{task}{suffix(version)}"
    room = LONGEST - len(".siginfo")
    if len(":".join(fields) + tail) > room:
        kept = sum(len(fields[index]) for index in (0, 1, 5, 6))
        each = (room - len(tail) - kept - 7) // 3
        fields = fields[:2] + [field[:each] for field in fields[2:5]] + fields[5:]
    return ":".join(fields) + tail


class Tree:
    """What lies in a tree: for each unit its files with their sizes, and its age in days."""

    def __init__(self, seed, files, mebibytes, only_new=False):
        self.chance = random.Random(seed)
        self.units = []
        count = 0
        while count < files:
            unit = self.unit(files - count, only_new)
            self.units.append(unit)
            count += len(unit[1])
        total = sum(size for _, parts in self.units for _, size in parts)
        self.scale = min(1.0, mebibytes * 2**20 / total)

    def unit(self, room, only_new):
        chance = self.chance
        digest = "%064x" % chance.getrandbits(256)
        architecture, _, system, below = chance.choices(ARCHITECTURES, [row[1] for row in ARCHITECTURES])[0]
        version = "12" if only_new else chance.choices(*zip(*VERSIONS))[0]
        recipe = chance.choice(RECIPES) + ("-native" if below else "")
        upstream = f"{chance.randint(0, 12)}.{chance.randint(0, 30)}.{chance.randint(0, 9)}"
        if chance.random() < 0.08:  # from git
            upstream += f"+git0+{chance.getrandbits(40):010x}"
        if chance.random() < 0.02:  # from many: too long a name
            upstream += "".join(f"_{chance.getrandbits(160):040x}" for _ in range(5))
        alone = room < 2 or chance.random() < 0.1
        task = chance.choice(SOURCE_TASKS if alone else TASKS)
        fields = ["sstate", recipe, system, upstream, "r0", architecture, version, ""]
        if alone:
            fields[2] = fields[5] = ""
        place = os.path.join(below, digest[:2], digest[2:4], name(fields, digest, task, version))
        parts = [(place + ".siginfo", chance.randint(1024, 6144))]
        if not alone:
            # Half of them 4 to 60 KiB, one in a hundred above 1 MiB.
            parts.insert(0, (place, min(16 * 2**20, int(2**10 * chance.lognormvariate(2.8, 2.0)) + 300)))
        # Nothing is as old as where `find -mtime +30` and 30 days part.
        age = chance.uniform(0, 120) if not only_new else 0
        return (age if not 28 < age < 33 else age + 6), parts

    def write(self, top, sparse=False):
        """Not part of the measured time."""
        now, made, block = time.time(), set(), random.Random(1).randbytes(2**20)
        for age, parts in self.units:
            for path, size in parts:
                path = os.path.join(top, path)
                directory = os.path.dirname(path)
                if directory not in made:
                    os.makedirs(directory, exist_ok=True)
                    made.add(directory)
                with open(path, "wb") as file:
                    if sparse:
                        file.truncate(size)
                    else:
                        file.write(content(path, block, max(64, int(size * self.scale))))
                os.utime(path, (now - age * DAY, now - age * DAY))

    def paths(self, older_than=-1.0):
        return {path for age, parts in self.units if age > older_than for path, _ in parts}


def content(path, block, size):
    data = (block * (size // len(block) + 1))[:size]
    if path.endswith((".tgz", ".tgz.siginfo")):
        return zlib.compress(data, 0, 31)
    # One zstd frame of raw blocks (RFC 8878, 3.1.1): magic, single segment with 4 bytes of size, blocks.
    blocks = [data[at : at + 2**17] for at in range(0, size, 2**17)]
    frame = [struct.pack("<IBI", 0xFD2FB528, 0xA0, size)]
    for index, part in enumerate(blocks):
        frame.append(struct.pack("<I", len(part) << 3 | (index == len(blocks) - 1))[:3] + part)
    return b"".join(frame)
