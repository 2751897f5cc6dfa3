//! Tells the program what its kernels are compiled with: part of the identity of what computes a state.

use std::process::Command;

fn main() {
    // The same compiler that cmake takes for llama.cpp.
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let output = Command::new(&compiler).arg("--version").output().ok();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let version = text.lines().next().unwrap_or("unknown").trim().to_owned();
    println!("cargo:rustc-env=PCACHE_COMPILER={version}");

    let set = |name: &str| std::env::var(name).unwrap_or_default();
    // llama-cpp-sys-2 optimises by whether debug information is wanted.
    let profile = match set("LLAMA_LIB_PROFILE") {
        profile if !profile.is_empty() => profile,
        _ if set("DEBUG") == "true" => "RelWithDebInfo".into(),
        _ => "Release".into(),
    };
    let mut flags = vec![format!("target={}", set("TARGET")), format!("profile={profile}")];
    let passed = |name: &str| {
        let prefix = ["CMAKE_", "GGML_"].iter().any(|prefix| name.starts_with(prefix));
        // How many of it are compiled at once, and through what, changes no bit.
        let harmless =
            ["CMAKE_BUILD_PARALLEL_LEVEL", "CMAKE_C_COMPILER_LAUNCHER", "CMAKE_CXX_COMPILER_LAUNCHER"];
        (prefix && !harmless.contains(&name)) || ["CFLAGS", "CXXFLAGS"].contains(&name)
    };
    let mut variables: Vec<(String, String)> = std::env::vars().filter(|(name, _)| passed(name)).collect();
    variables.sort();
    flags.extend(variables.into_iter().map(|(name, value)| format!("{name}={value}")));
    let rust = set("CARGO_ENCODED_RUSTFLAGS");
    flags.extend(rust.split('\x1f').find(|flag| flag.contains("target-cpu=")).map(str::to_owned));
    println!("cargo:rustc-env=PCACHE_KERNEL_FLAGS={}", flags.join(" ").replace('\n', " "));

    for name in ["CXX", "CFLAGS", "CXXFLAGS", "LLAMA_LIB_PROFILE"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for (name, _) in std::env::vars().filter(|(name, _)| passed(name)) {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
