//! The capabilities of this process.

/// Whether this process may administer its network.
pub fn may_administer_network() -> bool {
    const CAP_NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective(&status) >> CAP_NET_ADMIN & 1 == 1
}

/// The mask in `/proc/PID/status`; 0 if there is none.
fn effective(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_hexadecimal() {
        for (status, mask) in [
            ("CapPrm:\t0000000000000001\nCapEff:\t000001fffeffffff\n", 0x1ff_feff_ffff),
            ("CapEff:\t00000000a80425fb\n", 0xa804_25fb),
            ("CapEff:\tx\n", 0),
            ("", 0),
        ] {
            assert_eq!(effective(status), mask, "{status:?}");
        }
    }
}
