//! The state epoch: raised when llama.cpp's state format, or what it means, changes.

/// Part of every key. States of another epoch are never found, so none is restored into a llama.cpp
/// that would read it otherwise.
pub const STATE_EPOCH: u32 = 1;

/// The llama-cpp-sys-2 release (and with it the llama.cpp source) that [`STATE_EPOCH`] stands for.
pub const LLAMA_CPP_BUILD: &str = "llama-cpp-sys-2 0.1.160";

#[cfg(test)]
mod tests {
    use super::*;

    /// An upgrade of llama.cpp fails here on purpose: compare its state format and its arithmetic with
    /// those of the release before, raise the epoch if either changed, then change the constant.
    #[test]
    fn the_epoch_is_pinned_to_the_llama_cpp_that_is_built() {
        let lock = include_str!("../../../Cargo.lock");
        let (name, version) = LLAMA_CPP_BUILD.split_once(' ').unwrap();
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(
            lock.contains(&entry),
            "Cargo.lock has another {name} than the {version} of epoch {STATE_EPOCH}"
        );
    }
}
