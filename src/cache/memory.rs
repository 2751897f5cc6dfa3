//! How much memory the machine has left.

/// Bytes that can be had without swapping, where the system says so (Linux: `MemAvailable` of `/proc/meminfo`).
pub fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb << 10)
}
