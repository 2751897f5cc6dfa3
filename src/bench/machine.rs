//! Which machine it is, as far as the system tells.

use std::path::Path;

use super::results::Machine;
use crate::cache::memory;

/// The machine; `folder` is on the disk that is measured.
pub fn this(folder: &Path) -> Machine {
    Machine {
        cpu: cpu().unwrap_or_else(|| "unknown".into()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        file_system: file_system(folder),
    }
}

/// The name of the processor: Linux tells it by itself, macOS when asked.
fn cpu() -> Option<String> {
    let named = |line: &str| {
        let (key, value) = line.split_once(':')?;
        matches!(key.trim(), "model name" | "Model").then(|| value.trim().to_owned())
    };
    let linux = || std::fs::read_to_string("/proc/cpuinfo").ok()?.lines().find_map(named);
    linux().or_else(|| asked("sysctl", &["-n", "machdep.cpu.brand_string"]))
}

fn memory() -> Option<u64> {
    memory::total().or_else(|| asked("sysctl", &["-n", "hw.memsize"])?.parse().ok())
}

fn asked(program: &str, args: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The kind of file system that `folder` is on: of the mounts that it lies under, the deepest.
fn file_system(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?.replace("\\040", " "), words.next()?.to_owned()))
    });
    let under = mounts.filter(|(at, _)| folder.starts_with(at));
    under.max_by_key(|(at, _)| at.len()).map(|(_, kind)| kind)
}
