//! Parse, run, print the error chain, exit code.

use std::process::ExitCode;

use pcache::cli::Cli;
use pcache::commands;

fn main() -> ExitCode {
    let started = std::time::Instant::now();
    commands::complete_for_a_shell();
    let cli = Cli::of_process();
    begin_in_a_clean_environment();
    commands::run(cli, started)
}

/// Starts the program again where its environment is not as it should be; if that fails, it goes on as it is.
///
/// OpenMP's waiting threads should sleep soon: by default they spin for milliseconds, and two programs at once, as in
/// `pcache map … | pcache map …`, wait for each other's spinning: 45 s instead of 16 on two cores, and no slower alone
/// (`docs/performance.md`). The library reads that when it is loaded. And variables that change the layout of states are
/// taken away: they would give one key two contents.
#[cfg(unix)]
fn begin_in_a_clean_environment() {
    use pcache_engine::sys::compute::LAYOUT_VARIABLES;
    use std::os::unix::process::CommandExt;

    const SPINS: &str = "GOMP_SPINCOUNT";
    let is_set = |name: &str| std::env::var_os(name).is_some();
    let spins = cfg!(target_os = "linux") && ![SPINS, "OMP_WAIT_POLICY"].into_iter().any(is_set);
    let cleared: Vec<&str> = LAYOUT_VARIABLES.into_iter().filter(|name| is_set(name)).collect();
    if !spins && cleared.is_empty() {
        return;
    }
    // Linux knows the file also where its name went to another one.
    let own = if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() };
    let Ok(program) = own else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "pcache".into());
    let mut again = std::process::Command::new(program);
    again.arg0(name).args(arguments);
    if spins {
        again.env(SPINS, "1000");
    }
    for variable in cleared {
        use std::io::Write;
        let _ = writeln!(
            std::io::stderr(),
            "pcache: warning: {variable} is ignored: it changes the layout of states"
        );
        again.env_remove(variable);
    }
    let _ = again.exec();
}

#[cfg(not(unix))]
fn begin_in_a_clean_environment() {}
