//! Memory of the machine, where the system tells it (Linux: `/proc/meminfo`).

/// Bytes that it has.
pub fn total() -> Option<u64> {
    field("MemTotal:")
}

/// Bytes that can be had without swapping.
pub fn available() -> Option<u64> {
    field("MemAvailable:")
}

fn field(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb << 10)
}
