//! Parse, run, print the error chain, exit code.

use std::process::ExitCode;

use pcache::cli::Cli;
use pcache::commands;

fn main() -> ExitCode {
    let started = std::time::Instant::now();
    commands::complete_for_a_shell();
    let cli = Cli::of_process();
    share_the_processor();
    commands::run(cli, started)
}

/// Lets waiting threads of OpenMP sleep soon. By default they spin for milliseconds, and two programs at once, as in
/// `pcache map … | pcache map …`, wait for each other's spinning: 45 s instead of 16 on two cores, and no slower alone
/// (`docs/performance.md`). The library reads this when it is loaded, so the program starts itself again; if that fails, it
/// goes on as it is.
#[cfg(target_os = "linux")]
fn share_the_processor() {
    use std::os::unix::process::CommandExt;

    const SPINS: &str = "GOMP_SPINCOUNT";
    if [SPINS, "OMP_WAIT_POLICY"].into_iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "pcache".into());
    let _ = std::process::Command::new("/proc/self/exe").arg0(name).args(arguments).env(SPINS, "1000").exec();
}

#[cfg(not(target_os = "linux"))]
fn share_the_processor() {}
